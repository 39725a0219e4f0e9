"""The form that starts a round. What may be started is recipes.py's to say."""

from typing import Any

from django import forms
from django.utils.translation import gettext_lazy as _

from inference.models import Policy
from training.models import TrainingRound
from training.recipes import BASE, PRESETS, SERVING

AS_PRESET = ("", _("as the preset above says"))

NUMBERS = (
    "beta",
    "learning_rate",
    "epochs",
    "sft_epochs",
    "sft_learning_rate",
    "warmup_ratio",
)
WHOLE = ("batch_size", "micro_batch_size", "max_length", "seed")


def _number(label: Any, help_text: Any, most: float | None = None) -> forms.FloatField:
    widget = forms.NumberInput(attrs={"step": "any", "inputmode": "decimal"})
    common = {"label": label, "help_text": help_text, "required": False}
    return forms.FloatField(min_value=0, max_value=most, widget=widget, **common)


def _whole(label: Any, help_text: Any, least: int) -> forms.IntegerField:
    common = {"label": label, "help_text": help_text, "required": False}
    return forms.IntegerField(min_value=least, **common)


class RoundForm(forms.Form):
    """Empty fields leave the choice to the project, the preset or the trainer."""

    preset = forms.ChoiceField(
        label=_("Preset"), choices=[(name, name) for name in PRESETS], required=False
    )
    start = forms.ChoiceField(
        label=_("Start from"),
        required=False,
        help_text=_("The weights that training changes."),
    )
    reference = forms.ChoiceField(
        label=_("Reference"),
        required=False,
        choices=[AS_PRESET, *TrainingRound.Reference.choices],
        help_text=_("What the policy is held near to, and measured against."),
    )
    data = forms.ChoiceField(
        label=_("Pairs"),
        required=False,
        choices=[AS_PRESET, *TrainingRound.Data.choices],
        help_text=_("New: not trained on by what the round starts from."),
    )
    beta = _number(
        "Beta",
        _("Usually 0.1 to 0.5; 0.1 if empty. Larger stays nearer to the reference."),
    )
    learning_rate = _number(
        _("Learning rate"),
        _(
            "Chosen by the model's size if empty: 5e-4 for the starter model, 2e-5 to"
            " 1e-4 for 0.5 to 8 billion weights."
        ),
    )
    epochs = _number(
        _("Epochs"),
        _(
            "Passes over the pairs. If empty, enough for 100 updates; 1 to 3 on thousands"
            " of pairs."
        ),
    )
    sft_epochs = _number(
        _("Supervised epochs first"),
        _(
            "Passes over the chosen answers before the comparison counts; none if empty."
            " 1 or 2 help where people edited or imported answers; the policy’s own"
            " hardly need it."
        ),
    )
    sft_learning_rate = _number(
        _("Supervised learning rate"),
        _("Of those epochs; chosen by the model’s size if empty."),
    )
    batch_size = _whole(
        _("Batch size"),
        _("Pairs per update; chosen by their number if empty."),
        least=1,
    )
    micro_batch_size = _whole(
        _("Pairs at a time"),
        _(
            "In one forward pass; chosen by memory if empty. Lower it when memory runs"
            " out: the result stays the same."
        ),
        least=1,
    )
    lora_r = _whole(
        _("LoRA rank"),
        _("Usually 8 to 64; 16 if empty. How much an adapter can hold."),
        least=1,
    )
    max_length = _whole(
        _("Longest pair, in tokens"),
        _("Prompt and answer; 1024 if empty. What is longer is cut."),
        least=2,
    )
    warmup_ratio = _number(
        _("Warm-up"),
        _("Share of the steps in which the learning rate rises; 0.1 if empty."),
        most=0.99,
    )
    seed = _whole(
        _("Seed"),
        _("The same seed and pairs give the same policy; 42 if empty."),
        least=0,
    )

    def __init__(self, *args: Any, policies: list[Policy], **kwargs: Any):
        super().__init__(*args, **kwargs)
        startable = [p for p in policies if not p.is_base and not p.rejected_reason]
        named = [(p.name, p.name) for p in reversed(startable)]
        start = self.fields["start"]
        assert isinstance(start, forms.ChoiceField)
        start.choices = [
            AS_PRESET,
            (BASE, _("the base")),
            (SERVING, _("the policy that serves")),
            *named,
        ]

    def asked(self) -> dict[str, Any]:
        """The keywords of start_round; what was left empty is left out."""
        cleaned = self.cleaned_data
        asked: dict[str, Any] = {
            name: cleaned[name]
            for name in ("preset", "start", "reference", "data")
            if cleaned[name]
        }
        config = {
            name: cleaned[name] for name in NUMBERS + WHOLE if cleaned[name] is not None
        }
        if cleaned["lora_r"] is not None:
            config["lora"] = {"r": cleaned["lora_r"]}
        return asked | {"config": config}

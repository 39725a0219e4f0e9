"""Forms of the annotation pages but for the settings (settings_form.py).

They read what a browser sends and say what is wrong with it; what may be done with it
is for the services.
"""

from collections.abc import Callable
from io import BytesIO
from typing import Any, BinaryIO

from django import forms
from django.conf import settings
from django.http import HttpRequest, QueryDict
from django.template.defaultfilters import filesizeformat
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy

from annotation import (
    export_filters,
    import_jobs,
    projects,
    reviewing,
    uploads,
    words,
)
from annotation.adjudicating import MAX_NOTE, VERDICTS
from annotation.desk import Typed
from annotation.errors import InvalidJudgment, SettingsError
from annotation.judgment_body import MAX_COMMENT
from annotation.models import (
    Decision,
    ImportJob,
    Lease,
    PreferencePair,
    Project,
    Role,
    RuleVerdict,
    Verdict,
)
from annotation.projects import MAX_NAME
from annotation.validation import RULES

CRITERION = "criterion:"
"""Begins the name of a criterion's field; its own name follows, as the project has it."""


class Texts(forms.Field):
    """Several texts under one name; which of them are known, the service says."""

    widget = forms.MultipleHiddenInput

    def to_python(self, value: list[str] | None) -> list[str]:
        return list(value or [])


class JudgmentForm(forms.Form):
    """Everything on the desk. `lease` is what it is about, where it is about one."""

    verdict = forms.ChoiceField(
        choices=Verdict.choices,
        error_messages={
            "required": gettext_lazy("Pick A, B, tie or both bad."),
            "invalid_choice": gettext_lazy("Pick A, B, tie or both bad."),
        },
    )
    strength = forms.TypedChoiceField(
        choices=[("1", "1"), ("2", "2"), ("3", "3")],
        coerce=int,
        empty_value=None,
        required=False,
    )
    reasons = Texts(required=False)
    comment = forms.CharField(max_length=MAX_COMMENT, required=False, strip=False)
    flag = forms.CharField(required=False)
    flag_text = forms.CharField(required=False, strip=False)

    def __init__(self, data: QueryDict, lease: Lease | None = None) -> None:
        super().__init__(data)
        self.lease = lease

    def clean_comment(self) -> str:
        # A form without JavaScript sends CR LF, the script LF: one body, one hash.
        return _lines(self.cleaned_data["comment"])

    def clean(self) -> dict:
        cleaned = super().clean() or {}
        cleaned["edited"] = ""
        verdict = cleaned.get("verdict")
        for side, letter in (("first", "A"), ("second", "B")):
            text = self.edit_of(side)
            if text and side == verdict:
                cleaned["edited"] = text
            elif text is not None and verdict:
                # Never guessed: the edit would become the best answer, or be lost.
                self.add_error(
                    None,
                    _(
                        "You have emptied answer %(letter)s. Write it, or cancel the edit."
                    )
                    % {"letter": letter}
                    if side == verdict
                    else _(
                        "You have improved answer %(letter)s and picked something else."
                        " Pick %(letter)s, or cancel the edit."
                    )
                    % {"letter": letter},
                )
        return cleaned

    def edit_of(self, side: str) -> str | None:
        """The answer as it was rewritten; None where it was left as it is."""
        text = self.data.get(f"edited_{side}")
        if text is None or self.lease is None:
            return None
        text, original = _lines(text), _lines(getattr(self.lease, side).text)
        return None if text.strip() == original.strip() else text

    def skip_reason(self) -> str:
        """All that was typed, a flag's own words first; without them “something else”
        says nothing, whatever the comment is about.

        Raises InvalidJudgment for an improved answer, which a skip has no place for.
        """
        for side, letter in (("first", "A"), ("second", "B")):
            if self.edit_of(side):
                raise InvalidJudgment(
                    f"edited_{side}",
                    _(
                        "You have improved answer %(letter)s, and that would be lost. Pick"
                        " %(letter)s, or cancel the edit."
                    )
                    % {"letter": letter},
                )
        words = _lines(self.data.get("flag_text", ""))
        if self.data.get("flag") == Lease.Flag.OTHER and not words.strip():
            return ""
        typed = [words, _lines(self.data.get("comment", ""))]
        return "\n\n".join(filter(None, typed))

    def submission(self) -> dict[str, Any]:
        """What `judging.submit_judgment` is called with."""
        names = ("verdict", "strength", "reasons", "comment", "edited")
        return {
            **{name: self.cleaned_data[name] for name in names},
            "criteria": self.criteria(),
        }

    def criteria(self) -> dict[str, str]:
        """{criterion: what was sent for it}; which exist, the service says."""
        return {
            name.removeprefix(CRITERION): str(value)
            for name, value in self.data.items()
            if name.startswith(CRITERION) and value
        }

    def typed(self) -> Typed:
        """What was sent beside the verdict, valid or not, to be shown again."""
        return Typed(
            comment=self.data.get("comment", ""),
            strength=self.data.get("strength", ""),
            reasons=tuple(self.data.getlist("reasons")),
            edited_first=self.edit_of("first"),
            edited_second=self.edit_of("second"),
            criteria=self.criteria(),
            flag_text=self.data.get("flag_text", ""),
        )


class ReviewForm(forms.Form):
    verdict = forms.ChoiceField(
        choices=[(verdict, verdict) for verdict in VERDICTS],
        error_messages={
            "required": gettext_lazy("Pick A, B, tie, both bad, or leave it out."),
            "invalid_choice": gettext_lazy(
                "Pick A, B, tie, both bad, or leave it out."
            ),
        },
    )
    category = forms.ChoiceField(choices=Decision.Category.choices, required=False)
    note = forms.CharField(max_length=MAX_NOTE, required=False, strip=False)

    def clean_note(self) -> str:
        return self.cleaned_data["note"].replace("\r\n", "\n").strip()


def _lines(text: str) -> str:
    return text.replace("\r\n", "\n").replace("\r", "\n")


class ImportForm(forms.Form):
    """A file, some lines, or (where the server has such a folder) a path below it."""

    file = forms.FileField(
        label=gettext_lazy("File"),
        required=False,
        allow_empty_file=True,
        help_text=gettext_lazy(
            "JSONL, JSON, CSV or Parquet; or a dataset folder as zip or tar. UTF-8."
        ),
    )
    text = forms.CharField(
        label=gettext_lazy("Or paste it here"),
        required=False,
        strip=False,
        widget=forms.Textarea(attrs={"rows": 6, "spellcheck": "false"}),
    )
    path = forms.CharField(
        label=gettext_lazy("Or a file or folder on the server"),
        required=False,
        max_length=400,
        help_text=gettext_lazy("Below the server's import folder."),
    )

    def __init__(self, *args: Any, request: HttpRequest, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self._request = request
        if not settings.IMPORT_DIR:
            del self.fields["path"]

    def clean(self) -> dict:
        cleaned = super().clean() or {}
        if uploads.is_too_large(self._request):
            raise forms.ValidationError(
                _("The file is larger than %(most)s; send it in parts.")
                % {"most": filesizeformat(settings.IMPORT_MAX_BYTES)}
            )
        given = [cleaned.get("file"), (cleaned.get("text") or "").strip()]
        given.append(cleaned.get("path"))
        if not any(one is not None and one != "" for one in given):
            raise forms.ValidationError(_("Choose a file, or paste some lines."))
        return cleaned

    def received(self, project: Project, by: Any) -> ImportJob:
        """The import that comes of it. Raises ImportRefused."""
        if self.cleaned_data.get("path"):
            return import_jobs.from_server(project, by, self.cleaned_data["path"])
        if (file := self.cleaned_data.get("file")) is not None:
            return import_jobs.receive(project, by, file)
        return import_jobs.receive_text(project, by, self.cleaned_data["text"])


class MappingForm(forms.Form):
    """Which column is which; shown only, what comes back `mapping_of` reads."""

    def __init__(self, columns: list[str], mapping: dict[str, str]):
        super().__init__()
        choices = [("", gettext_lazy("as in the file"))]
        choices += [(column, column[:60]) for column in columns]
        # Of both kinds: what it holds may be told in the same step.
        for name, label in import_jobs.FIELD_LABELS.items():
            self.fields[f"map_{name}"] = forms.ChoiceField(
                label=label,
                choices=choices,
                required=False,
                initial=mapping.get(name, ""),
            )


class ExportForm(forms.Form):
    """What to export and how narrowed; the values are read by export_filters."""

    what = forms.ChoiceField(label=gettext_lazy("What"), required=False)
    which = forms.ChoiceField(
        label=gettext_lazy("Which pairs"),
        choices=list(export_filters.WHICH.items()),
        required=False,
    )
    kind = forms.ChoiceField(
        label=gettext_lazy("Origin"),
        choices=[("", gettext_lazy("any")), *PreferencePair.Kind.choices],
        required=False,
    )
    rule = forms.ChoiceField(label=gettext_lazy("Rule"), required=False)
    verdict = forms.ChoiceField(
        label=gettext_lazy("Its verdict"),
        choices=[("", gettext_lazy("any")), *RuleVerdict.Result.choices],
        required=False,
    )
    agreement = forms.CharField(
        label=gettext_lazy("Minimum agreement"),
        required=False,
        help_text=gettext_lazy(
            "Share of a comparison’s judgments for what won, 0 to 1; 1 is unanimous."
        ),
        widget=forms.NumberInput(attrs={"min": "0", "max": "1", "step": "any"}),
    )
    annotator = forms.ChoiceField(label=gettext_lazy("Judged by"), required=False)
    since = forms.CharField(
        label=gettext_lazy("From"),
        required=False,
        widget=forms.DateInput(attrs={"type": "date"}),
    )
    until = forms.CharField(
        label=gettext_lazy("To"),
        required=False,
        help_text=gettext_lazy("That day included."),
        widget=forms.DateInput(attrs={"type": "date"}),
    )
    names = forms.BooleanField(
        label=gettext_lazy("Name the annotators"),
        required=False,
        help_text=gettext_lazy(
            "Otherwise each has a pseudonym, the same in every export."
        ),
    )

    def __init__(self, data: Any, *, project: Project, user: Any, role: str):
        super().__init__(data)
        # By name where the reader may, else by pseudonym.
        judges = export_filters.judges(project, user, role)
        shown = {pk: name for name, pk in judges.items()}
        known = [(name, words.rule_words(name)) for name in RULES]
        self.fields["rule"].choices = [("", _("any rule")), *known]
        self.fields["annotator"].choices = [
            ("", _("anybody")),
            *((name, name) for name in sorted(shown.values())),
        ]
        self.fields["what"].choices = [
            (_("Pairs"), [(f"pairs:{f}", label) for f, label in PAIR_FORMATS]),
            (_("Judgments"), [(f"judgments:{f}", label) for f, label in TABLES]),
            (_("Prompts"), [(f"prompts:{f}", label) for f, label in TABLES]),
            (_("All of it"), [("dataset:", _("Dataset folder (zip, with a card)"))]),
        ]
        if role != Role.MANAGER:
            del self.fields["names"]


PAIR_FORMATS = [
    *((name, f"{shown} (JSONL)") for name, shown in words.FORMATS.items()),
    ("csv", "CSV"),
    ("parquet", "Parquet"),
]
TABLES = [("jsonl", "JSONL"), ("csv", "CSV"), ("parquet", "Parquet")]


class GoldImportForm(forms.Form):
    file = forms.FileField(
        label=gettext_lazy("File"),
        required=False,
        allow_empty_file=True,
        help_text=gettext_lazy("JSONL, UTF-8, in any language."),
    )
    text = forms.CharField(
        label=gettext_lazy("Or paste it here"),
        required=False,
        strip=False,
        widget=forms.Textarea(attrs={"rows": 4}),
    )

    def clean(self) -> dict[str, Any]:
        cleaned = super().clean() or {}
        if not self.errors and not cleaned.get("file") and not cleaned["text"].strip():
            raise forms.ValidationError(_("Choose a file, or paste some lines."))
        return cleaned

    def stream(self) -> BinaryIO:
        """The file, or else the pasted text, as bytes."""
        file = self.cleaned_data.get("file")
        return file.file if file else BytesIO(self.cleaned_data["text"].encode())


class NewProjectForm(forms.Form):
    name = forms.CharField(
        label=gettext_lazy("Name"),
        max_length=MAX_NAME,
        help_text=gettext_lazy("What the annotators will see, such as “Cooking help”."),
    )
    slug = forms.SlugField(
        label=gettext_lazy("Short name for addresses"),
        max_length=80,
        required=False,
        help_text=gettext_lazy(
            "Lower-case Latin letters, digits, hyphens and underscores; left empty, it is"
            " made from the name."
        ),
    )
    guidelines = forms.CharField(
        label=gettext_lazy("Guidelines"),
        required=False,
        widget=forms.Textarea(attrs={"rows": 8}),
        help_text=gettext_lazy(
            "What makes an answer better here. Markdown; annotators open it beside"
            " the answers."
        ),
    )

    def clean_slug(self) -> str:
        slug = self.cleaned_data["slug"]
        return _checked_by(projects.checked_slug, slug) if slug else ""

    def clean_guidelines(self) -> str:
        guidelines = self.cleaned_data["guidelines"]
        return _checked_by(projects.checked_guidelines, guidelines)


def _checked_by(check: Callable[[str], str], text: str) -> str:
    """What the service would refuse later is told at the field, with all else."""
    try:
        return check(text)
    except SettingsError as error:
        raise forms.ValidationError(error.message) from None


class MemberForm(forms.Form):
    """Add somebody, change a role, or (with `remove`) take somebody out."""

    username = forms.CharField(label=gettext_lazy("User name"), max_length=150)
    role = forms.ChoiceField(
        label=gettext_lazy("Role"), choices=Role.choices, required=False
    )
    remove = forms.BooleanField(required=False, widget=forms.HiddenInput)

    def clean(self) -> dict:
        cleaned = super().clean() or {}
        if not cleaned.get("remove") and not cleaned.get("role"):
            self.add_error("role", _("Choose a role."))
        return cleaned


class LetThroughForm(forms.Form):
    note = forms.CharField(
        label=gettext_lazy("Why this pair is good all the same"),
        max_length=reviewing.MAX_NOTE,
        error_messages={
            "required": gettext_lazy("Say why this pair is good all the same.")
        },
    )


class RepairForm(forms.Form):
    """Both answers as they are to be; what stays the same is not changed."""

    chosen = forms.CharField(
        label=gettext_lazy("Chosen answer"),
        required=False,
        strip=False,
        widget=forms.Textarea(attrs={"rows": 10}),
    )
    rejected = forms.CharField(
        label=gettext_lazy("Rejected answer"),
        required=False,
        strip=False,
        widget=forms.Textarea(attrs={"rows": 10}),
    )
    note = forms.CharField(
        label=gettext_lazy("What was wrong"),
        required=False,
        max_length=reviewing.MAX_NOTE,
    )

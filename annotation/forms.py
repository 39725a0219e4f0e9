"""Forms of the annotation pages but for the settings (settings_form.py).

They read what a browser sends and say what is wrong with it; what may be done with it
is for the services.
"""

from io import BytesIO
from typing import BinaryIO

from django import forms
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy

from annotation.desk import Typed
from annotation.models import Project, Role, Verdict


class Texts(forms.Field):
    """Several texts under one name; which of them are known, the service says."""

    widget = forms.MultipleHiddenInput

    def to_python(self, value: list[str] | None) -> list[str]:
        return list(value or [])


class JudgmentForm(forms.Form):
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
    comment = forms.CharField(max_length=10_000, required=False, strip=False)

    def clean_comment(self) -> str:
        # A form without JavaScript sends CR LF, the script LF: one body, one hash.
        return self.cleaned_data["comment"].replace("\r\n", "\n")

    def typed(self) -> Typed:
        """What was sent beside the verdict, valid or not, to be shown again."""
        reasons = self.data.getlist("reasons") if hasattr(self.data, "getlist") else []
        return Typed(
            comment=self.data.get("comment", ""),
            strength=self.data.get("strength", ""),
            reasons=tuple(reasons),
        )


class ImportForm(forms.Form):
    file = forms.FileField(
        label=gettext_lazy("File"),
        required=False,
        allow_empty_file=True,
        help_text=gettext_lazy("JSONL or CSV, UTF-8, in any language."),
    )
    text = forms.CharField(
        label=gettext_lazy("Or paste it here"),
        required=False,
        strip=False,
        widget=forms.Textarea(attrs={"rows": 6, "spellcheck": "false"}),
    )
    format = forms.ChoiceField(
        label=gettext_lazy("Format"),
        required=False,
        choices=[
            ("", gettext_lazy("Tell by the content")),
            ("jsonl", "JSONL"),
            ("csv", "CSV"),
        ],
    )

    def clean(self) -> dict:
        cleaned = super().clean() or {}
        if not cleaned.get("file") and not (cleaned.get("text") or "").strip():
            raise forms.ValidationError(_("Choose a file, or paste some lines."))
        return cleaned

    def stream(self) -> BinaryIO:
        """The file, or else the pasted text, as bytes."""
        file = self.cleaned_data.get("file")
        return file.file if file else BytesIO(self.cleaned_data["text"].encode())

    def chosen_format(self) -> str | None:
        return self.cleaned_data["format"] or None


class GoldImportForm(ImportForm):
    format = None  # type: ignore[assignment]
    file = forms.FileField(
        label=gettext_lazy("File"),
        required=False,
        allow_empty_file=True,
        help_text=gettext_lazy("JSONL, UTF-8, in any language."),
    )


class NewProjectForm(forms.Form):
    name = forms.CharField(
        label=gettext_lazy("Name"),
        max_length=120,
        help_text=gettext_lazy("What the annotators will see, such as “Cooking help”."),
    )
    slug = forms.SlugField(
        label=gettext_lazy("Short name for addresses"),
        max_length=80,
        required=False,
        help_text=gettext_lazy(
            "Latin letters, digits and hyphens; left empty, it is made from the name."
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
        # "new" is the address of this very form.
        if slug == "new" or Project.objects.filter(slug=slug).exists():
            raise forms.ValidationError(
                _("There is a project with this short name already.")
            )
        return slug


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

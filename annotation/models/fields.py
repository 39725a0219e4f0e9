"""Fields that several models have."""

from django.db import models

from annotation.scripts import main_script


class ScriptField(models.CharField):
    """The main script of another field of the row, found whenever the row is written,
    one by one or in bulk: whoever makes a row need not think of it. "" is unknown.

    `reads`: text, or chat messages whose last from the user counts.
    """

    def __init__(self, *, reads: str, **options):
        self.reads = reads
        # db_default: rows that come past Django (a script's SQL) are unknown.
        options |= {"max_length": 12, "editable": False, "db_default": ""}
        super().__init__(**options)

    def deconstruct(self):
        name, path, args, options = super().deconstruct()
        for fixed in ("max_length", "editable", "db_default"):
            options.pop(fixed, None)
        return name, path, args, options | {"reads": self.reads}

    def pre_save(self, model_instance, add):
        source = getattr(model_instance, self.reads)
        script = main_script(source if isinstance(source, str) else asked(source))
        setattr(model_instance, self.attname, script)
        return script


def asked(messages: list) -> str:
    """The text of the user's last message; of the last one where no user speaks."""
    of_user = [m for m in messages if isinstance(m, dict) and m.get("role") == "user"]
    last = (of_user or messages or [None])[-1]
    content = last.get("content") if isinstance(last, dict) else last
    if isinstance(content, list):
        parts = (part.get("text") for part in content if isinstance(part, dict))
        return "\n".join(str(part) for part in parts if part)
    return str(content or "")

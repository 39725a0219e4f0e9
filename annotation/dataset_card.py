"""The card of an exported dataset: README.md, whose head tells `datasets` what is where."""

from collections import Counter
from collections.abc import Iterable
from typing import Any

import yaml
from django.utils import timezone

from annotation import figures, project_settings, quality, queries, sways
from annotation.checking import rules_version
from annotation.export_filters import NAMES, Wanted
from annotation.models import Project

CONFIGS = ("data", "judgments", "prompts")


def card(
    project: Project,
    asked: Wanted,
    files: Iterable[Any],
    left_out: Counter[str],
    *,
    is_round: bool = False,
) -> str:
    """Markdown. English, as cards are; figures are the project's at this moment, also
    where only a part of it was exported, such as what a round froze (`is_round`)."""
    files = list(files)
    configs = _configs(files)
    settings = project_settings.of(project)
    rules = rules_version(settings)
    parts = [
        f"---\n{yaml.safe_dump(_head(project, configs), sort_keys=False, allow_unicode=True)}---",
        f"# {_plain(project.name)}",
        (
            f"Preference pairs of the project “{_plain(project.slug)}”, made with Tiebreak"
            f" on {timezone.now():%Y-%m-%d %H:%M} UTC. Base model:"
            f" `{_plain(project.base.base_model)}`."
        ),
        _snippet(configs),
        "A pair's columns are `prompt`, `chosen`, `rejected` (chat messages, as TRL reads"
        " them) and `weight`. `original` holds, as JSON, an imported row that the columns"
        " don't hold wholly. The split `test` has the pairs on prompts that were held out"
        " before anyone judged them: measure on it, never train. Annotators go by"
        " pseudonyms unless a manager asked for names.",
        *_asked(asked, is_round),
        "## Files\n\n"
        + _table(
            ("file", "rows", "bytes", "sha256"),
            [(f.name, f.rows or "", f.size, f"`{f.sha256}`") for f in files],
        ),
        *_left_out(left_out),
        "## From judgments to pairs\n\n"
        + _table(
            ("step", "count", "lost"),
            [
                (
                    _plain(step["step"]),
                    step["count"],
                    ", ".join(f"{n} {why}" for why, n in step["lost"].items()),
                )
                for step in figures.counted(project, "funnel")
            ],
        ),
        *_agreement(project),
        *_bias(project),
        f"## Rules\n\nVersion (sha256 of their settings and code): `{rules}`\n\n"
        f"{_due(project)}```yaml\n"
        f"{yaml.safe_dump(settings.rules, allow_unicode=True)}```",
    ]
    return "\n\n".join(parts) + "\n"


def _configs(files: list[Any]) -> list[dict[str, Any]]:
    """What `load_dataset` can be asked for. It fails on a split without rows."""
    configs = []
    for folder in CONFIGS:
        splits = [
            {"split": _split(f.name), "path": f.name}
            for f in files
            if f.name.startswith(f"{folder}/") and f.rows
        ]
        if splits:
            name = "default" if folder == "data" else folder
            # The split that trains first.
            splits.sort(key=lambda split: split["split"] != "train")
            configs.append({"config_name": name, "data_files": splits})
    return configs


def _head(project: Project, configs: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        "pretty_name": project.name,
        "tags": ["preference", "dpo", "human-feedback", "trl", "tiebreak"],
        "task_categories": ["text-generation"],
        **({"configs": configs} if configs else {}),
    }


def _snippet(configs: list[dict[str, Any]]) -> str:
    if not configs:
        return "No file in it has rows yet."
    lines = ["from datasets import load_dataset", ""]
    for config in configs:
        name = config["config_name"]
        if name == "default":
            lines.append('pairs = load_dataset("this-folder")')
        else:
            lines.append(f'{name} = load_dataset("this-folder", "{name}")')
    return "\n".join(["```python", *lines, "```"])


def _split(name: str) -> str:
    # "train" for what isn't split: `datasets` keeps "all" for itself.
    return "test" if name.rpartition("/")[2].startswith("test-") else "train"


def _asked(asked: Wanted, is_round: bool) -> list[str]:
    if not asked.is_narrowed and not is_round:
        return []
    froze = ["the pairs that a training round froze"] if is_round else []
    given = {
        name: getattr(asked, name)
        for name in NAMES
        if getattr(asked, name) not in ("", None)
    }
    narrowed = [f"{name} = `{_plain(str(value))}`" for name, value in given.items()]
    return [
        f"Only a part was exported: {', '.join(froze + narrowed)}. Judgments are narrowed"
        " by annotator and date alone, prompts not at all; the figures after the list of"
        " files are the whole project's."
    ]


def _due(project: Project) -> str:
    due = queries.due_pairs(project).count()
    if not due:
        return ""
    return f"Of {due} pairs the verdicts are by earlier rules: they were being checked again.\n\n"


def _left_out(left_out: Counter[str]) -> list[str]:
    if not left_out:
        return []
    told = "; ".join(f"{count}: {reason}" for reason, count in left_out.items())
    return [f"Left out of `llamafactory/`, whose format can't say them: {told}."]


def _agreement(project: Project) -> list[str]:
    found = quality.agreement(project)
    if found is None:
        return ["## Agreement\n\nNothing was judged by two people."]
    rows = [
        (name, *_figure(found[key]))
        for name, key in (
            ("Krippendorff's alpha", "alpha"),
            ("Fleiss' kappa", "fleiss"),
        )
    ]
    return ["## Agreement\n\n" + _table(("figure", "value", "95 %", "units"), rows)]


def _figure(figure: Any) -> tuple[str, str, int]:
    if figure.value is None:
        return "—", "—", figure.units
    interval = "—" if figure.low is None else f"{figure.low:.3f} to {figure.high:.3f}"
    return f"{figure.value:.3f}", interval, figure.units


def _bias(project: Project) -> list[str]:
    found = sways.bias(project)
    if found is None:
        return []
    words = {
        "first": "for the answer shown first",
        "longer": "for the longer answer",
        "marked": "for the one with more Markdown",
        "own": "for the one in the prompt's script, where scripts differ",
    }
    rows = [
        (
            told,
            f"{found[name].count} of {found[name].of}",
            "—" if found[name].value is None else f"{found[name].value:.3f}",
        )
        for name, told in words.items()
    ]
    return ["## What sways verdicts\n\n" + _table(("verdicts", "count", "share"), rows)]


def _table(head: tuple[str, ...], rows: Iterable[tuple[Any, ...]]) -> str:
    lines = [head, tuple("---" for _name in head), *rows]
    return "\n".join(f"| {' | '.join(map(str, line))} |" for line in lines)


def _plain(text: str) -> str:
    """In one line, and no markup of its own."""
    return " ".join(text.replace("|", "/").replace("`", "'").split())

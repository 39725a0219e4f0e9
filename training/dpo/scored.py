"""What became of each single pair: pairs_scored.jsonl, held_out_scored.jsonl, and what
they say together.

held_out_scored.jsonl keeps each held-out pair's figures at the start of DPO beside
those of the last evaluation, so that the change can be told pair by pair, after a
resume too. Leaves out scoring itself; see `evaluate.py`.
"""

import math
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from training.dpo.answer_figures import AnswerFigures
from training.dpo.data import Pair, prompts_of
from training.dpo.distributed import is_main
from training.dpo.files import read_jsonl, write_jsonl
from training.dpo.intervals import (
    DRAWS,
    LEVEL,
    Interval,
    difference,
    mean_intervals,
    prompt_clusters,
    share_interval,
)
from training.dpo.metrics import Figures

HELD_OUT_SCORED = "held_out_scored.jsonl"
ACCURACY, MARGIN = "rewards/accuracies_ties_half", "rewards/margins"
COMPARED = {ACCURACY: "right", MARGIN: "margin", "loss": "loss"}
"""Metric → its name in a scored row; at the start of DPO with `_at_start` after it."""

MOST_DOUBTFUL = 10


def scored_rows(
    pairs: Sequence[Pair], figures: Figures | AnswerFigures
) -> list[dict[str, Any]]:
    """Each pair's id and figures, in the file's order; None for what is not finite.

    `right`: 1 if the chosen answer has the higher reward, 0.5 at a tie, else 0. Of
    labelled answers (KTO) a row each; see `AnswerFigures` for their margin.
    """
    if isinstance(figures, AnswerFigures):
        rows = [
            {
                "id": pairs[index].id,
                "line": pairs[index].line,
                "label": figures.labels[place],
                "reward": _finite(figures.rewards[place]),
                "margin": _finite(figures.margins[place]),
                "right": figures.right[place],
                "loss": _finite(figures.losses[place]),
            }
            for place, index in enumerate(figures.indexes)
        ]
        return sorted(rows, key=lambda row: (row["line"], not row["label"]))
    rows = [
        {
            "id": pairs[index].id,
            "line": pairs[index].line,
            "margin": _finite(figures.margins[place]),
            "right": figures.right[place],
            "rewards/chosen": _finite(figures.chosen_rewards[place]),
            "rewards/rejected": _finite(figures.rejected_rewards[place]),
            "loss": _finite(figures.losses[place]),
        }
        for place, index in enumerate(figures.indexes)
    ]
    return sorted(rows, key=lambda row: row["line"])


def by_pair(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Labelled answers that came from one pair, as that pair; all else as it is.

    Its margin is that of the two rewards, its loss the mean of theirs.
    """
    told: list[dict[str, Any]] = []
    for row in rows:
        before = told[-1] if told else {}
        same = [before.get(key) == row[key] for key in ("id", "line")]
        if not all(same) or {row.get("label"), before.get("label")} != {True, False}:
            told.append(dict(row))
            continue
        chosen, rejected = before["reward"], row["reward"]
        whole = None not in (chosen, rejected)
        told[-1] = {
            "id": row["id"],
            "line": row["line"],
            "margin": chosen - rejected if whole else None,
            "right": ((chosen > rejected) + (chosen >= rejected)) / 2 if whole else 0.0,
            "rewards/chosen": chosen,
            "rewards/rejected": rejected,
            "loss": (before["loss"] + row["loss"]) / 2 if whole else None,
        }
    return told


def most_doubtful(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Of the pairs whose rejected answer still has the higher reward, the clearest ten.

    Some are mislabelled; others are only hard, or unlike the rest.
    """
    against = [row for row in rows if (row["margin"] or 0) < 0]
    against.sort(key=lambda row: (row["margin"], row["line"]))
    return [
        {key: row[key] for key in ("id", "line", "margin")}
        for row in against[:MOST_DOUBTFUL]
    ]


def held_out_intervals(
    pairs: Sequence[Pair], figures: Figures | AnswerFigures
) -> dict[str, float]:
    """{metric/low, metric/high} of accuracy, margin and loss, over prompts.

    Empty where a figure is not finite or all pairs have one prompt.
    """
    members = [pairs[index] for index in figures.indexes]
    if not all(map(math.isfinite, [*figures.margins, *figures.losses])):
        return {}
    clusters = prompt_clusters(members)
    found = {}
    if not isinstance(figures, AnswerFigures):
        # Of labelled answers that metric is a difference of two means.
        found = mean_intervals({MARGIN: figures.margins}, clusters)
    found[ACCURACY] = share_interval(figures.right, clusters)
    found |= mean_intervals({"loss": figures.losses}, clusters, figures.weights)
    return {
        f"{name}/{end}": getattr(interval, end)
        for name, interval in found.items()
        for end in ("low", "high")
        if interval.low is not None
    }


def forget_held_out(folder: Path) -> None:
    """The next evaluation is the one at the start of DPO."""
    if is_main():
        (folder / HELD_OUT_SCORED).unlink(missing_ok=True)


def bring_held_out(source: Path, folder: Path) -> None:
    """Take over another run folder's evaluations: the run goes on from there."""
    if is_main() and (source / HELD_OUT_SCORED).exists():
        shutil.copyfile(source / HELD_OUT_SCORED, folder / HELD_OUT_SCORED)


def keep_held_out(
    folder: Path, pairs: Sequence[Pair], figures: Figures | AnswerFigures
) -> None:
    """Write held_out_scored.jsonl: these figures, beside those of the start."""
    if not is_main():
        return
    rows, at_start = scored_rows(pairs, figures), _at_start(folder)
    for row in rows:
        started = at_start.get(_place(row), row)
        for name in COMPARED.values():
            row[f"{name}_at_start"] = started.get(f"{name}_at_start", row[name])
    write_jsonl(folder / HELD_OUT_SCORED, rows)


def _place(row: Mapping[str, Any]) -> tuple[str, int, bool | None]:
    """Tells rows apart; the two answers of a pair share id and line."""
    return row["id"], row["line"], row.get("label")


def _at_start(folder: Path) -> dict[tuple[str, int, bool | None], dict[str, Any]]:
    path = folder / HELD_OUT_SCORED
    rows = [row for _, row in read_jsonl(path)] if path.exists() else []
    return {_place(row): row for row in rows}


def held_out_report(
    folder: Path,
    pairs: Sequence[Pair],
    ends: Mapping[str, Mapping[str, Any]],
) -> dict[str, Any]:
    """summary.json's "held_out": the figures at start and end and how they differ.

    `ends`: {"start": metrics, "end": metrics}. "difference" is end − start with its
    paired interval; None where the start's figures are not at hand pair by pair.
    """
    rows = [row for _, row in read_jsonl(folder / HELD_OUT_SCORED)]
    by_place = {(pair.id, pair.line): pair for pair in pairs}
    members = [by_place.get((row["id"], row["line"])) for row in rows]
    report: dict[str, Any] = {
        "pairs": len(pairs),
        "prompts": len(prompts_of(pairs)),
        **ends,
        "difference": None,
        "interval": f"{LEVEL:.0%} by {DRAWS} draws of prompts with all their pairs",
        "look_at_first": most_doubtful(rows),
    }
    known = [member for member in members if member is not None]
    if len(known) == len(pairs) == len(rows):
        report["difference"] = _difference(rows, known, ends)
    return report


def _difference(
    rows: Sequence[Mapping[str, Any]],
    pairs: Sequence[Pair],
    ends: Mapping[str, Mapping[str, Any]],
) -> dict[str, Any] | None:
    labelled = any("label" in row for row in rows)
    compared = {m: k for m, k in COMPARED.items() if m != MARGIN or not labelled}
    after = {metric: [row[key] for row in rows] for metric, key in compared.items()}
    before = {
        metric: [row[f"{key}_at_start"] for row in rows]
        for metric, key in compared.items()
    }
    if any(
        value is None
        for column in (*after.values(), *before.values())
        for value in column
    ):
        return None
    clusters = prompt_clusters(pairs)
    unweighted, loss = [m for m in compared if m != "loss"], ["loss"]
    weights = [pair.weight for pair in pairs]
    found: dict[str, Interval] = {}
    for names, by in ((unweighted, None), (loss, weights)):
        found |= difference({n: after[n] for n in names}, before, clusters, by)
    for name, interval in found.items():
        told = ends["end"][name] - ends["start"][name]
        if not math.isclose(interval.value, told, rel_tol=1e-6, abs_tol=1e-9):
            # A file of other evaluations than metrics.jsonl has, as after a resume of
            # a folder without it.
            return None
    return {name: interval.as_dict() for name, interval in found.items()}


def held_out_line(report: Mapping[str, Any]) -> str:
    """summary.json's "held_out" in one line for the terminal."""
    end = report["end"]

    def figure(name: str, digits: int) -> str:
        ends = [end.get(f"{name}/low"), end.get(f"{name}/high")]
        told = f"{end[name]:.{digits}f}" if end[name] is not None else "no number"
        if None not in ends:
            told += f" ({ends[0]:.{digits}f} to {ends[1]:.{digits}f})"
        return told

    drift = ", ".join(
        f"{side} {end[f'drift/{side}']:+.3f}"
        for side in ("chosen", "rejected")
        if end.get(f"drift/{side}") is not None
    )
    return (
        f"held out, {report['pairs']} pairs of {report['prompts']} prompts: accuracy"
        f" {figure(ACCURACY, 2)}, margin {figure(MARGIN, 3)}, loss {figure('loss', 3)};"
        f" drift from the base, log-ratio per token: {drift}"
    )


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None

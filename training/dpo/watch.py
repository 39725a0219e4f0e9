"""Says what the curves of a run show while they grow, each caution once.

Everything is read from metrics.jsonl, so that a resumed run sees what one left alone
sees. Of several processes, process 0 looks. Leaves out what is worth a caution; see
`guardrails.py`.
"""

from collections.abc import Iterable
from typing import Any

from training.dpo.data import prompts_of
from training.dpo.distributed import is_main
from training.dpo.files import read_jsonl
from training.dpo.guardrails import Caution, curve_cautions
from training.dpo.phases import DPO, Phase
from training.dpo.progress import say
from training.dpo.run_state import Run

LOOKS = 20
"""In a phase; a look reads all of metrics.jsonl."""


def look_if_due(run: Run, phase: Phase, step: int) -> None:
    """Look at the curves after some steps of DPO, and say what is new."""
    every = max(1, phase.schedule.total_steps // LOOKS)
    if is_main() and phase.name == DPO and (step - phase.first) % every == 0:
        warn(run, curves(run))


def curves(run: Run) -> list[Caution]:
    """What metrics.jsonl shows of the DPO phase so far."""
    rows: list[dict[str, Any]] = [row for _, row in read_jsonl(run.log.path)]
    phase = run.phases[-1]
    rows = [row for row in rows if row.get("phase") == phase.name]
    held_out = run.held_out.pairs if run.held_out is not None else []
    prompts = len(prompts_of(held_out))
    return curve_cautions(rows, run.config, phase.first, phase.last, prompts)


def warn(run: Run, cautions: Iterable[Caution]) -> None:
    """Say those not said yet in this process, and keep all in status.json."""
    warnings = run.status.values["warnings"]
    for caution in cautions:
        if not any(caution.code == known["code"] for known in warnings):
            say(f"warning: {caution.text}")
            warnings.append(caution.as_dict())

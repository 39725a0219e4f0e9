"""What a policy's fresh answers are like: asked of vLLM, put into figures.

Used by the simulation. Leaves out people's own comparisons, which are annotation's.
"""

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from django.db import connection

from annotation import project_settings
from annotation.models import Project
from annotation.stock import with_system
from inference.errors import InferenceError
from inference.models import Policy
from inference.sampling import SamplingParams
from inference.services import sample
from inference.starter.tastes import WANTED, columns, on_topic
from training.errors import SimulationError

POLL_SECONDS = 1.0
LONGEST_RESTART = 180.0


@dataclass(frozen=True)
class Measure:
    """What fresh answers of one policy are like; shares from 0 to 1."""

    policy: str
    wanted: float
    """Of the kind that the taste wants."""
    on_topic: float | None
    """Of those whose topic is known; None where none is."""
    distinct: float
    """Different texts among all."""
    mean_length: float
    """Columns; a Chinese character counts two."""
    cut_off: float


def prompts_to_measure(project: Project, most: int) -> list[list[dict[str, Any]]]:
    """Held-out prompts, evenly from all of them; any prompts where none is held out."""
    rows = project.prompts.filter(is_held_out=True)
    if not rows.exists():
        rows = project.prompts.all()
    found = list(rows.order_by("id").values_list("messages", flat=True))
    if not found:
        raise SimulationError(f"the project “{project.slug}” has no prompts")
    count = min(most, len(found))
    return [found[i * len(found) // count] for i in range(count)]


def measure(
    project: Project,
    policy: Policy,
    prefer: str,
    samples: int,
    progress: Callable[[int], None] = lambda count: None,
) -> Measure:
    """About `samples` fresh answers of the policy, as the project samples them."""
    settings = project_settings.of(project).sampling
    try:
        params = SamplingParams.from_dict(settings)
    except ValueError as error:
        raise SimulationError(f"the project cannot be sampled: {error}") from error
    prompts = prompts_to_measure(project, samples)
    each = -(-samples // len(prompts))

    def ask(messages: list[dict[str, Any]]) -> list[tuple[str, str, str]]:
        messages = with_system(messages, settings.get("system_prompt", ""))
        answers = _patiently(lambda: sample(policy, messages, each, params))
        progress(len(answers))
        question = str(messages[-1]["content"])
        return [(question, answer.text, answer.finish_reason) for answer in answers]

    with ThreadPoolExecutor(4) as pool:
        found = [row for rows in pool.map(ask, prompts) for row in rows]
    return summary(policy.name, found, WANTED[prefer])


def _patiently(ask: Callable[[], list[Any]]) -> list[Any]:
    """The answers; a server that restarts is waited for. Raises InferenceError."""
    waited = 0.0
    while True:
        try:
            return ask()
        except InferenceError as error:
            if error.permanent or waited >= LONGEST_RESTART:
                raise
        finally:
            connection.close()
        time.sleep(POLL_SECONDS)
        waited += POLL_SECONDS


def summary(
    policy: str,
    answers: list[tuple[str, str, str]],
    is_wanted: Callable[[str], bool],
) -> Measure:
    """A policy's answers [(question, text, finish reason)] in figures."""
    texts = [text for _question, text, _reason in answers]
    topics = [on_topic(question, text) for question, text, _reason in answers]
    told = [topic for topic in topics if topic is not None]
    count = len(answers)
    return Measure(
        policy=policy,
        wanted=sum(map(is_wanted, texts)) / count,
        on_topic=sum(told) / len(told) if told else None,
        distinct=len(set(texts)) / count,
        mean_length=sum(columns(text) for text in texts) / count,
        cut_off=sum(reason == "length" for *_rest, reason in answers) / count,
    )

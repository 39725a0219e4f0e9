"""Simulated annotators with a stated taste, who judge, start rounds and measure.

They sign in and work through the HTTP API alone, as people's programs would. Only
their accounts are made beside it. Leaves out what policies' answers are like
(measuring.py), and the printing, which the command does.
"""

import random
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from functools import partial

from django.contrib.auth import get_user_model
from knox.models import AuthToken

from annotation.models import Membership, Project, Role
from inference.starter.tastes import TASTES
from training.client import Client, Lease, ProblemError, Round, Wait
from training.errors import SimulationError
from training.measuring import Measure

POLL_SECONDS = 1.0
ANNOUNCE_SECONDS = 30.0
LONGEST_WAIT = 600.0
"""For a comparison, for rules to be checked, for a policy to serve."""


@dataclass(frozen=True)
class Persona:
    """Somebody simulated: a user name and a client signed in with its token."""

    name: str
    client: Client


@dataclass
class RoundReport:
    """One round of judging and training."""

    number: int
    judgments: int
    pairs: int
    margin: float | None
    before: Measure
    after: Measure
    seconds: float


@dataclass
class Crew:
    """The simulated people of one project."""

    slug: str
    annotators: list[Persona]
    manager: Persona
    stopped: threading.Event = field(default_factory=threading.Event)


def verdict_of(
    score: Callable[[str], float],
    first: str,
    second: str,
    rng: random.Random,
    noise: float = 0.0,
) -> str:
    """The verdict of somebody with this taste; equal scores are a tie.

    With probability `noise` the other answer is picked instead. Ties stay ties.
    """
    a, b = score(first), score(second)
    if a == b:
        return "tie"
    better = a > b
    if noise and rng.random() < noise:
        better = not better
    return "first" if better else "second"


@contextmanager
def crew(project: Project, annotators: int, url: str) -> Iterator[Crew]:
    """Users sim-1 … and sim-manager with roles and tokens of a day's life.

    Their tokens end with the block, their users and judgments stay.
    """
    tokens, clients = [], []

    def persona(name: str, role: str) -> Persona:
        user, created = get_user_model().objects.get_or_create(username=name)
        if created:
            user.set_unusable_password()
            user.save()
        Membership.objects.update_or_create(
            project=project, user=user, defaults={"role": role}
        )
        row, token = AuthToken.objects.create(user, expiry=timedelta(days=1))
        tokens.append(row)
        clients.append(Client(url, token))
        return Persona(name, clients[-1])

    try:
        yield Crew(
            project.slug,
            [persona(f"sim-{i}", Role.ANNOTATOR) for i in range(1, annotators + 1)],
            persona("sim-manager", Role.MANAGER),
        )
    finally:
        for client in clients:
            client.close()
        for row in tokens:
            row.delete()


class _Budget:
    """How many judgments are still to be given, shared by the annotators' threads."""

    def __init__(self, count: int) -> None:
        self._left = count
        self._lock = threading.Lock()

    def take(self) -> bool:
        with self._lock:
            if self._left <= 0:
                return False
            self._left -= 1
            return True

    def give_back(self) -> None:
        with self._lock:
            self._left += 1


def judge(
    people: Crew,
    prefer: str,
    count: int,
    *,
    noise: float = 0.0,
    speed: float = 0.0,
    seed: int = 0,
    progress: Callable[[str], None] = lambda verdict: None,
    say: Callable[[str], None] = lambda line: None,
) -> dict[str, int]:
    """Exactly `count` judgments by taste, by all annotators at once; {verdict: how many}.

    `speed` is judgments a second for each annotator, 0 for as fast as they come. Nobody
    keeps a lease afterwards. Raises SimulationError where nothing comes for long.
    """
    budget = _Budget(count)
    verdicts: dict[str, int] = {}
    counted = threading.Lock()

    def note(verdict: str) -> None:
        with counted:
            verdicts[verdict] = verdicts.get(verdict, 0) + 1
        progress(verdict)

    def work(person: Persona, index: int) -> None:
        rng = random.Random(f"{seed}:{index}")
        pick = partial(verdict_of, TASTES[prefer], rng=rng, noise=noise)
        try:
            _judge_alone(people, person, pick, speed, budget, note, say)
        except BaseException:
            people.stopped.set()
            raise

    with ThreadPoolExecutor(len(people.annotators)) as pool:
        jobs = [
            pool.submit(work, person, index)
            for index, person in enumerate(people.annotators)
        ]
        try:
            for job in jobs:
                job.result()
        except BaseException:
            # Ctrl-C reaches this thread: tell the others, who end their leases.
            people.stopped.set()
            raise
    return verdicts


def _judge_alone(
    people: Crew,
    person: Persona,
    pick: Callable[[str, str], str],
    speed: float,
    budget: _Budget,
    note: Callable[[str], None],
    say: Callable[[str], None],
) -> None:
    lease: Lease | None = None
    try:
        while not people.stopped.is_set() and budget.take():
            verdict = ""
            try:
                lease = lease or _next_lease(people, person, say)
                if lease is None:
                    return
                if speed:
                    people.stopped.wait(1 / speed)
                verdict = pick(lease.first.text, lease.second.text)
                submitted = person.client.judge(lease, verdict)
                lease = submitted.next
                note(verdict)
            except ProblemError as error:
                if error.status != 410:
                    raise
                # Slower than the lease: somebody else has judged it.
                lease, verdict = None, ""
            finally:
                if not verdict:
                    budget.give_back()
    finally:
        if lease is not None:
            person.client.skip(lease, "the simulation ended")


def _next_lease(
    people: Crew, person: Persona, say: Callable[[str], None]
) -> Lease | None:
    """The next lease; None once everybody is told to stop."""
    waited = announced = 0.0
    while not people.stopped.is_set():
        answer = person.client.take_lease(people.slug)
        if not isinstance(answer, Wait):
            return answer
        if waited >= LONGEST_WAIT:
            raise SimulationError(
                f"no comparison came for {waited:.0f} seconds: see /readyz for what is "
                "not running, and whether the project has prompts"
            )
        if waited >= announced:
            announced += ANNOUNCE_SECONDS
            say(
                f"{person.name}: no comparison waits yet; "
                f"asking again every {answer.seconds:.0f} s"
            )
        people.stopped.wait(answer.seconds)
        waited += answer.seconds
    return None


def wait_until_checked(people: Crew, say: Callable[[str], None]) -> None:
    """Rules are checked outside the request; a round sees only what has passed them."""
    client = people.manager.client
    _until(
        lambda: client.project(people.slug).counts["unchecked_pairs"] == 0,
        people,
        "the rules of some pairs were not checked: is the worker of queue “default” up?",
        lambda: say("waiting for the rules to be checked"),
    )


def train(
    people: Crew,
    *,
    preset: str | None = None,
    progress: Callable[[Round, float | None], None] = lambda row, margin: None,
) -> Round:
    """A round from start to end. Raises SimulationError saying why there is none."""
    client = people.manager.client
    try:
        row = client.start_round(people.slug, preset=preset)
    except ProblemError as error:
        raise SimulationError(f"no round was started: {error}") from error
    step = -1
    queued_since = time.monotonic()
    while not row.is_over:
        if row.progress["step"] != step:
            step = row.progress["step"]
            progress(row, client.metrics(row.id).recent("rewards/margins"))
        time.sleep(POLL_SECONDS)
        row = client.round(row.id)
        if row.state != "queued":
            queued_since = time.monotonic()
        elif time.monotonic() - queued_since > LONGEST_WAIT:
            raise SimulationError(
                f"round {row.number} is still queued: is the worker of queue “gpu” up?"
            )
    progress(row, client.metrics(row.id).recent("rewards/margins"))
    if row.state != "succeeded" or row.policy is None:
        raise SimulationError(
            f"round {row.number} {row.state}: {row.error or 'no reason'}"
        )
    return row


def serve(people: Crew, name: str, say: Callable[[str], None]) -> None:
    """Wait until the policy serves; deploy it where the project does not by itself."""
    client = people.manager.client

    def state() -> str:
        return next(p.state for p in client.policies(people.slug) if p.name == name)

    if not client.project(people.slug).settings["auto_deploy"] and state() != "serving":
        client.deploy(name)

    def serves() -> bool:
        if (now := state()) == "rejected":
            raise SimulationError(f"{name} was rejected: see the project's policies")
        return now == "serving"

    _until(
        serves,
        people,
        f"{name} does not serve",
        lambda: say(f"waiting for {name} to serve"),
    )


def _until(
    condition: Callable[[], bool],
    people: Crew,
    complaint: str,
    announce: Callable[[], None],
) -> None:
    waited = 0.0
    while not condition():
        if not waited:
            announce()
        if waited >= LONGEST_WAIT:
            raise SimulationError(complaint)
        people.stopped.wait(POLL_SECONDS)
        waited += POLL_SECONDS

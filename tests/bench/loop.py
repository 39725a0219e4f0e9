"""The whole loop as `make run` starts it, measured from outside, as its people meet it.

On one stack with the starter model: a round from the press of the button to its policy's
first service, pairs sampled a second, promotions beside eight annotators, the judge page
in a browser. Leaves out the first start, which is start.py's.
"""

import json
import operator
import shutil
import sqlite3
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

import httpx

from tests.bench.clients import Ask, Person, Turn, work
from tests.bench.figures import Budget, Figure
from tests.bench.judge_page import figures_of_the_page
from tests.bench.judging import NONE, differences
from tests.bench.offline import MENDED
from tests.bench.options import Options
from tests.bench.processes import BenchError, run_to_end
from tests.loop.stack import Stack
from tests.processes import free_port
from tests.waiting import wait_for
from training.client import Client, ProblemError, Round

ANNOTATORS = 8
PROJECT = "demo"
FIRST_JUDGMENTS, MORE_JUDGMENTS = 40, 24
"""Before the first round, and with the old policy before the second."""
PAUSE = 0.5
"""Seconds an annotator looks at a pair: people take twenty times as long."""
FLIPS, BETWEEN_FLIPS = 6, 4.0
SAMPLED, QUICK_SAMPLED = 192, 48
SAMPLED_TURNS, QUICK_SAMPLED_TURNS = 3, 1
"""The quickest of each side counts: vLLM's step here takes 20 ms one minute, 35 the next."""
QUICK_STEPS = 60

MAKE_PEOPLE = f"""
from django.contrib.auth import get_user_model
from knox.models import AuthToken
project, answer = Project.objects.get(slug={PROJECT!r}), []
for number in range({ANNOTATORS}):
    user = get_user_model().objects.create_user(f"bench-{{number}}")
    Membership.objects.create(project=project, user=user, role="annotator")
    answer.append(AuthToken.objects.create(user)[1])
"""
OF_VLLM = ("VLLM_", "TORCHDYNAMO_DISABLE", "HF_HUB_OFFLINE")
SAMPLES = """
made = Comparison.objects.filter(pk__gt={before}).order_by("pk")[:{count}]
made = list(made.select_related("prompt", "a", "b", "policy"))
policy = made[-1].policy
answer = dict(
    ended=max(one.created_at for one in made).timestamp(),
    adapter=dict(name=policy.name, path=str(policy.adapter_path)),
    requests=[
        dict(messages=one.prompt.messages, seed=one.a.seed, sampling=one.a.sampling)
        for one in made
    ],
    token_ids=[[one.a.token_ids, one.b.token_ids] for one in made],
)
"""
TIMES = """
round = TrainingRound.objects.get(pk={round})
at = dict(round.events.values_list("state", "at"))
served = Deployment.objects.filter(policy=round.policy).earliest("at").at
answer = [at["training"].timestamp(), at["succeeded"].timestamp(), served.timestamp()]
"""
HANDED_OUT = """
from django.db.models import F
from tests.waiting import wait_for
answer = {
    "stored": [pk.hex for pk in Judgment.objects.filter(undone_at=None)
               .values_list("pk", flat=True)],
    "compared": Comparison.objects.filter(purpose="train").count(),
    "mixed": Comparison.objects.filter(purpose="train")
             .exclude(a__policy=F("b__policy"), b__policy=F("policy")).count(),
}
"""


@dataclass
class Crowd:
    """Annotators who judge until `end` is set, and what came of it."""

    end: threading.Event = field(default_factory=threading.Event)
    turn: Turn = field(default_factory=lambda: Turn(0))
    waits: list[float] = field(default_factory=list)
    """Seconds for which somebody had nothing to judge."""

    def judgments(self) -> int:
        return len(self.turn.acknowledged)


def measure(options: Options) -> Iterator[Figure]:
    try:
        yield from _measure(options)
    except (AssertionError, ProblemError, httpx.HTTPError) as error:
        raise BenchError(str(error)) from error


def _measure(options: Options) -> Iterator[Figure]:
    with _stack(options) as stack:
        tokens = stack.ask(MAKE_PEOPLE)
        token = stack.manage("create_token", "manager").strip()
        with Client(stack.url, token) as manager:
            options.say(f"loop: {FIRST_JUDGMENTS} judgments, then a round")
            with _judging(stack, tokens) as first:
                wait_for(
                    "the first judgments",
                    lambda: first.judgments() >= FIRST_JUDGMENTS,
                    300,
                )
            _rules_are_checked(stack)
            yield _orchestration(stack, manager)
            options.say(f"loop: {ANNOTATORS} annotators, a round, {FLIPS} flips")
            with _judging(stack, tokens) as second:
                _promote(manager, second)
            yield from _figures_of_promotions(stack, [first, second])
            asked = _sampled(options, stack, manager)
        options.say("loop: the judge page")
        yield from figures_of_the_page(stack, PROJECT)
        stack.stop()
        yield from _sampling(options, asked)


@contextmanager
def _stack(options: Options) -> Iterator[Stack]:
    folder = options.folder / "loop"
    folder.mkdir()
    stack = Stack(folder / "data", free_port(), free_port(), settings={})
    try:
        if options.quick:
            stack.build_starter(QUICK_STEPS)
        options.say("loop: make run")
        stack.start()
        yield stack
    finally:
        if stack.process and stack.process.poll() is None:
            stack.stop()
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def _judging(stack: Stack, tokens: Any) -> Iterator[Crowd]:
    """All annotators at work while the block runs."""
    crowd = Crowd()
    people = [(token, annotator(crowd)) for token in tokens]
    thread = threading.Thread(target=work, args=(stack.port, people, 0))
    thread.start()
    try:
        yield crowd
    finally:
        crowd.end.set()
        thread.join()


def annotator(crowd: Crowd, pause: float = PAUSE) -> Person:
    """Prefers the longer answer; where nothing is ready, asks again as it is told to."""

    def person(ask: Ask, _turn: Turn) -> None:
        lease, idle_since = None, None
        while not crowd.end.is_set():
            if lease is None:
                status, lease = ask(f"/api/v1/projects/{PROJECT}/leases", {})
                if status not in (200, 201, 204):
                    crowd.turn.refused.append(status)
            if lease is None:
                idle_since = idle_since or time.monotonic()
                crowd.end.wait(pause)
                continue
            if idle_since is not None:
                crowd.waits.append(time.monotonic() - idle_since)
                idle_since = None
            crowd.end.wait(pause)
            shown = lease["comparison"]
            longer = max(("first", "second"), key=lambda side: len(shown[side]["text"]))
            path = f"/api/v1/leases/{lease['key']}/judgment"
            answer = crowd.turn.timed(ask, path, {"verdict": longer})
            lease = answer and answer["next"]
            if answer:
                name = answer["judgment"]["id"].replace("-", "")
                crowd.turn.acknowledged.append(name)

    return person


def _rules_are_checked(stack: Stack) -> None:
    unchecked = "answer = PreferencePair.objects.filter(state='unchecked').exists()"
    wait_for("the rules to be checked", lambda: not stack.ask(unchecked), 60)


def _round(manager: Client, **choices: Any) -> tuple[Round, float]:
    """A round from its start to its policy's service; it, and when it was asked for."""
    asked = time.time()
    started = manager.start_round(PROJECT, **choices)

    def ended() -> Round | None:
        now = manager.round(started.id)
        return now if now.is_over else None

    over = wait_for("the round to end", ended, 900)
    if over.state != "succeeded":
        raise BenchError(f"the round {over.state}: {over.error}")

    def serves() -> bool:
        return any(
            policy.round == started.id and policy.state == "serving"
            for policy in manager.policies(PROJECT)
        )

    wait_for("its policy to serve", serves, 120)
    return over, asked


def _orchestration(stack: Stack, manager: Client) -> Figure:
    over, asked = _round(manager)
    begun, registered, served = stack.ask(TIMES.format(round=over.id))
    attempt = max((stack.data_dir / "rounds" / str(over.id)).glob("attempt-*"))
    status = json.loads((attempt / "status.json").read_text("utf-8"))
    trained = datetime.fromisoformat(status["updated_at"]).timestamp()
    note = f"{over.pairs} pairs, {over.progress['total_steps']} steps"
    return orchestration(asked, begun, trained, registered, served, note)


def orchestration(
    asked: float,
    begun: float,
    trained: float,
    registered: float,
    served: float,
    note: str,
) -> Figure:
    """The share of a round that is neither its trainer's nor loading its policy.

    Moments in seconds: the round asked for, its trainer started and done, its policy
    registered and serving.
    """
    total, training, loading = served - asked, trained - begun, served - registered
    rest = total - training - loading
    return Figure(
        "loop/orchestration",
        rest / total,
        "of a round",
        budget=Budget("value", "≤", 0.05),
        note=f"{begun - asked:.1f} s before the trainer and {registered - trained:.1f} s"
        f" after it of {total:.1f} s; the trainer {training:.1f} s, loading and checking"
        f" the policy {loading:.1f} s; {note}",
    )


def _promote(manager: Client, crowd: Crowd) -> None:
    """A new policy after a round, then back and forth between it and the one before."""
    wait_for(
        "judgments with the old policy",
        lambda: crowd.judgments() >= MORE_JUDGMENTS,
        300,
    )
    over, _asked = _round(manager)
    for number in range(FLIPS):
        time.sleep(BETWEEN_FLIPS)
        if number % 2:
            manager.deploy(str(over.policy))
        else:
            manager.rollback(PROJECT)
    time.sleep(BETWEEN_FLIPS)


def _figures_of_promotions(stack: Stack, crowds: list[Crowd]) -> Iterator[Figure]:
    found: Any = stack.ask(HANDED_OUT)
    turns = [crowd.turn for crowd in crowds]
    last = crowds[-1]
    note = (
        f"{ANNOTATORS} annotators, {last.judgments()} judgments, a round's promotion"
        f" and {FLIPS} flips, {BETWEEN_FLIPS:g} s apart"
    )
    refused = [status for turn in turns for status in turn.refused]
    yield Figure(
        "loop/promotion/refused", len(refused), "requests", budget=NONE, note=note
    )
    yield Figure(
        "loop/promotion/mixed",
        found["mixed"],
        "comparisons",
        budget=NONE,
        note=f"of {found['compared']}; answers of two policies, or of another than it says",
    )
    yield Figure(
        "loop/promotion/lost or invented",
        differences(set(found["stored"]), turns),
        "judgments",
        budget=NONE,
    )
    yield Figure("loop/promotion/p95", last.turn.percentile(0.95), "ms")
    yield Figure(
        "loop/promotion/waited",
        max(last.waits, default=0.0),
        "s",
        note=f"the longest time that somebody had nothing to judge; {len(last.waits)} such",
    )


def _sampled(options: Options, stack: Stack, manager: Client) -> dict[str, Any]:
    """Let the stock grow by so many pairs, in turns; what was asked for, how long it took."""
    asked: dict[str, Any] = {"turns": []}
    for turn in range(QUICK_SAMPLED_TURNS if options.quick else SAMPLED_TURNS):
        options.say(f"loop: pairs sampled, turn {turn + 1}")
        asked["turns"].append(_sampled_turn(options, stack, manager))
    asked["adapter"] = asked["turns"][-1]["adapter"]
    (server,) = stack.processes("inference.vllm_process", "--served-model-name")
    asked["flags"] = _told(server, "cmdline")[3:]
    asked["environment"] = {
        name: value
        for name, _, value in (line.partition("=") for line in _told(server, "environ"))
        if name.startswith(OF_VLLM) and name != "VLLM_RPC_BASE_PATH"
    }
    return asked


def _sampled_turn(options: Options, stack: Stack, manager: Client) -> dict[str, Any]:
    count = QUICK_SAMPLED if options.quick else SAMPLED
    making = "SELECT count(*) FROM annotation_stockreservation WHERE NOT is_resting"
    wait_for("the stock to be full", lambda: not _read(stack, making), 300)
    before = _read(stack, "SELECT max(id) FROM annotation_comparison")
    stock = manager.project(PROJECT).settings["stock"]
    begun = time.time()
    manager.update_project(PROJECT, settings={"stock": stock + count})
    made = f"SELECT count(*) FROM annotation_comparison WHERE id > {before}"
    wait_for("the stock", lambda: _read(stack, made) >= count, 900)
    turn: Any = stack.ask(SAMPLES.format(before=before, count=count))
    return {**turn, "seconds": turn["ended"] - begun}


def _read(stack: Stack, query: str) -> int:
    """Past the stack: `manage.py` would take a processor's second at each look."""
    path = stack.data_dir / "tiebreak.sqlite3"
    with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as database:
        return database.execute(query).fetchone()[0]


def _told(pid: int, of: str) -> list[str]:
    """A process's command line or environment, as Linux tells it."""
    return Path(f"/proc/{pid}/{of}").read_text("utf-8").split("\0")[:-1]


def _sampling(options: Options, asked: dict[str, Any]) -> Iterator[Figure]:
    """Against vLLM offline, with the server's flags, on the same prompts and seeds: as it
    comes, and with our LoRA operators, so that what the server itself costs is seen."""
    ours = [turn["seconds"] for turn in asked["turns"]]
    count = len(asked["turns"][0]["requests"])
    for name, rival, budget in (
        ("loop/sampling", "vLLM offline", Budget("ratio", "≥", 0.95)),
        ("loop/sampling/our operators", "vLLM offline, with ours", None),
    ):
        options.say(f"{name}: the same pairs by {rival}")
        told = _offline(options, asked, is_mended=budget is None)
        theirs = [turn["seconds"] for turn in told]
        same = sum(
            sum(map(operator.eq, offline["token_ids"], turn["token_ids"]))
            for offline, turn in zip(told, asked["turns"], strict=True)
        )
        yield Figure(
            name,
            count / min(ours),
            "pairs/s",
            rival,
            count / min(theirs),
            budget,
            f"{count} pairs a turn, stored in the stock; ours {_each(count, ours)},"
            f" offline {_each(count, theirs)} pairs/s; {same} of {count * len(ours)} the"
            " same tokens offline",
        )


def _offline(
    options: Options, asked: dict[str, Any], *, is_mended: bool
) -> list[dict[str, Any]]:
    folder = options.folder / ("offline-mended" if is_mended else "offline")
    folder.mkdir()
    (folder / "asked.json").write_text(json.dumps(asked), encoding="utf-8")
    command = [sys.executable, "-m", "tests.bench.offline"]
    files = [str(folder / name) for name in ("asked.json", "told.json")]
    env = asked["environment"] | ({MENDED: "1"} if is_mended else {})
    run_to_end([*command, *files], folder / "log", env)
    told: list[dict[str, Any]] = json.loads((folder / "told.json").read_text("utf-8"))
    return told


def _each(count: int, seconds: list[float]) -> str:
    return ", ".join(f"{count / one:.1f}" for one in seconds)

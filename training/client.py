"""A small typed client of the HTTP API, for programs that judge, train and export.

Needs httpx and nothing of Django. A call that may be repeated without harm is repeated
when the connection breaks; any call is repeated when the server could not be reached
or answered 503. A judgment may always be sent again: its lease's key sees to that.
Leaves out what the API has and programs seldom need (read /api/docs).
"""

import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, fields
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

import httpx

FIRST_PAUSE, LONGEST_PAUSE = 0.2, 5.0
T = TypeVar("T")


class ProblemError(Exception):
    """The API refused. `problem` is the whole RFC 9457 document."""

    def __init__(self, status: int, problem: dict[str, Any]):
        self.status = status
        self.problem = problem
        self.code: str = problem.get("code", "")
        super().__init__(f"{status}: {problem.get('detail') or problem}")


@dataclass(frozen=True)
class Answer:
    id: str
    text: str


@dataclass(frozen=True)
class Lease:
    """A claim on one comparison until `expires_at`; its key makes judging repeatable."""

    key: str
    expires_at: datetime
    comparison_id: str
    prompt: list[dict[str, Any]]
    first: Answer
    second: Answer

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Self:
        shown = data["comparison"]
        return cls(
            key=data["key"],
            expires_at=datetime.fromisoformat(data["expires_at"]),
            comparison_id=shown["id"],
            prompt=shown["prompt"],
            first=Answer(**shown["first"]),
            second=Answer(**shown["second"]),
        )


@dataclass(frozen=True)
class Wait:
    """Nothing waits for this annotator; ask again after so many seconds."""

    seconds: float


@dataclass(frozen=True)
class Judgment:
    id: str
    verdict: str
    strength: int | None = None
    reasons: list[str] = field(default_factory=list)
    comment: str = ""
    edited: str | None = None
    criteria: dict[str, str] = field(default_factory=dict)
    created_at: str = ""


@dataclass(frozen=True)
class Submitted:
    """`next` is None where nothing waits; `is_replay` where it was sent before."""

    judgment: Judgment
    next: Lease | None
    is_replay: bool


@dataclass(frozen=True)
class Project:
    slug: str
    name: str
    role: str
    settings: dict[str, Any]
    counts: dict[str, int]
    guidelines: str = ""


@dataclass(frozen=True)
class ImportReport:
    accepted: int
    duplicates: int
    rejected: list[dict[str, Any]]
    labelled: int = 0


@dataclass(frozen=True)
class Round:
    id: int
    project: str
    number: int
    state: str
    progress: dict[str, Any]
    pairs: int
    policy: str | None
    error: str | None
    summary: dict[str, Any] = field(default_factory=dict)

    @property
    def is_over(self) -> bool:
        return self.state in ("succeeded", "failed", "cancelled")


@dataclass(frozen=True)
class Metrics:
    """`series[name][i]` belongs to `steps[i]`; None where a step has no such value."""

    steps: list[int]
    series: dict[str, list[float | None]]

    def recent(self, name: str, steps: int = 10) -> float | None:
        """The mean of its last values: a step may be one pair, and jumps."""
        known = [value for value in self.series.get(name, []) if value is not None]
        return sum(known[-steps:]) / len(known[-steps:]) if known else None


@dataclass(frozen=True)
class Policy:
    name: str
    parent: str | None
    round: int | None
    state: str
    win_rate: float | None


class Client:
    """One user of one server. Use it as a context manager, or close() it.

    `patience` is for how many seconds a call is repeated before it gives up.
    """

    def __init__(
        self,
        url: str,
        token: str,
        *,
        timeout: float = 30.0,
        patience: float = 60.0,
        transport: httpx.BaseTransport | None = None,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._http = httpx.Client(
            base_url=f"{url.rstrip('/')}/api/v1/",
            headers={"Authorization": f"Bearer {token}"},
            timeout=timeout,
            transport=transport,
        )
        self._patience = patience
        self._sleep = sleep

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        self._http.close()

    # --- Projects ----------------------------------------------------------------
    def projects(self) -> Iterator[Project]:
        return (_only(Project, row) for row in self._pages("projects"))

    def project(self, slug: str) -> Project:
        return _only(Project, self._json("GET", f"projects/{slug}"))

    def create_project(self, name: str, **fields: Any) -> Project:
        body = {"name": name, **fields}
        return _only(Project, self._json("POST", "projects", json=body))

    def update_project(self, slug: str, **fields: Any) -> Project:
        data = self._json("PATCH", f"projects/{slug}", repeatable=True, json=fields)
        return _only(Project, data)

    def members(self, slug: str) -> dict[str, str]:
        return self._json("GET", f"projects/{slug}/members")

    def set_members(self, slug: str, members: dict[str, str]) -> dict[str, str]:
        """Exactly these are the members afterwards: {"username": "role"}."""
        address = f"projects/{slug}/members"
        return self._json("PUT", address, repeatable=True, json=members)

    def import_prompts(self, slug: str, source: Path | bytes | str) -> ImportReport:
        """A JSONL or CSV file, or its content. Importing again only adds duplicates."""
        if isinstance(source, Path):
            source = source.read_bytes()
        data = self._json(
            "POST",
            f"projects/{slug}/prompts",
            repeatable=True,
            content=source,
            headers={"Content-Type": "text/plain"},
        )
        return _only(ImportReport, data)

    def stats(self, slug: str) -> dict[str, Any]:
        return self._json("GET", f"projects/{slug}/stats")

    # --- Judging -----------------------------------------------------------------
    def take_lease(self, slug: str) -> Lease | Wait:
        """The comparison to judge next (the one held, if one is)."""
        response = self._send("POST", f"projects/{slug}/leases", repeatable=True)
        if response.status_code == 204:
            return Wait(float(response.headers.get("Retry-After", 5)))
        return Lease.from_json(response.json())

    def judge(
        self,
        lease: Lease,
        verdict: str,
        *,
        strength: int | None = None,
        reasons: list[str] | None = None,
        comment: str = "",
        edited: str = "",
        criteria: dict[str, str] | None = None,
    ) -> Submitted:
        """`verdict`: first, second, tie or both_bad. Raises ProblemError 409, 410, 422."""
        body: dict[str, Any] = {"verdict": verdict}
        given = {
            "strength": strength,
            "reasons": reasons,
            "comment": comment,
            "edited": edited,
            "criteria": criteria,
        }
        body |= {name: value for name, value in given.items() if value}
        response = self._send(
            "POST", f"leases/{lease.key}/judgment", repeatable=True, json=body
        )
        data = response.json()
        following = data["next"]
        return Submitted(
            judgment=_only(Judgment, data["judgment"]),
            next=Lease.from_json(following) if following else None,
            is_replay=response.status_code == 200,
        )

    def skip(self, lease: Lease, reason: str = "", flag: str = "") -> None:
        """It is not offered to this annotator again.

        `flag` (unsafe, broken, language, other) shows the pair to reviewers.
        """
        given = {"reason": reason, "flag": flag}
        body = {name: value for name, value in given.items() if value}
        self._send("DELETE", f"leases/{lease.key}", repeatable=True, json=body)

    def undo(self, judgment: Judgment) -> Lease:
        return Lease.from_json(self._json("POST", f"judgments/{judgment.id}/undo"))

    # --- Pairs and rounds --------------------------------------------------------
    def export_pairs(self, slug: str, format: str = "trl") -> Iterator[dict[str, Any]]:
        """The sound pairs, a row at a time as they arrive."""
        with self._http.stream(
            "GET", f"projects/{slug}/pairs", params={"format": format}
        ) as response:
            if response.is_error:
                response.read()
                raise _problem(response)
            for line in response.iter_lines():
                if line.strip():
                    yield json.loads(line)

    def start_round(self, slug: str, **choices: Any) -> Round:
        """Any of start, reference, data, preset, config={…}. Raises ProblemError 409, 422."""
        body = {name: value for name, value in choices.items() if value is not None}
        return _only(Round, self._json("POST", f"projects/{slug}/rounds", json=body))

    def rounds(self, slug: str) -> Iterator[Round]:
        return (_only(Round, row) for row in self._pages(f"projects/{slug}/rounds"))

    def round(self, id: int) -> Round:
        return _only(Round, self._json("GET", f"rounds/{id}"))

    def metrics(self, id: int) -> Metrics:
        return _only(Metrics, self._json("GET", f"rounds/{id}/metrics"))

    def cancel_round(self, id: int) -> Round:
        data = self._json("POST", f"rounds/{id}/cancel", repeatable=True)
        return _only(Round, data)

    def resume_round(self, id: int) -> Round:
        data = self._json("POST", f"rounds/{id}/resume", repeatable=True)
        return _only(Round, data)

    # --- Policies ----------------------------------------------------------------
    def policies(self, slug: str) -> list[Policy]:
        rows = self._json("GET", f"projects/{slug}/policies")
        return [_only(Policy, row) for row in rows]

    def deploy(self, name: str) -> Policy:
        data = self._json("POST", f"policies/{name}/deploy", repeatable=True)
        return _only(Policy, data)

    def rollback(self, slug: str) -> Policy:
        return _only(Policy, self._json("POST", f"projects/{slug}/rollback"))

    # --- How a call is made ------------------------------------------------------
    def _json(self, method: str, address: str, **request: Any) -> Any:
        return self._send(method, address, **request).json()

    def _pages(self, address: str) -> Iterator[dict[str, Any]]:
        following: str | None = address
        while following:
            page = self._json("GET", following)
            yield from page["results"]
            following = page["next"]

    def _send(
        self, method: str, address: str, *, repeatable: bool = False, **request: Any
    ) -> httpx.Response:
        """The answer, once there is one that is no 503. Raises ProblemError above 399,
        httpx.TransportError where patience ends."""
        pause, waited = FIRST_PAUSE, 0.0
        repeatable = repeatable or method == "GET"
        while True:
            try:
                response = self._http.request(method, address, **request)
            except (httpx.ConnectError, httpx.ConnectTimeout):
                if waited >= self._patience:
                    raise
            except httpx.TransportError:
                if not repeatable or waited >= self._patience:
                    raise
            else:
                if response.status_code != 503 or waited >= self._patience:
                    if response.is_error:
                        raise _problem(response)
                    return response
                pause = max(pause, _retry_after(response))
            pause = min(pause, LONGEST_PAUSE)
            self._sleep(pause)
            waited += pause
            pause *= 2


def _retry_after(response: httpx.Response) -> float:
    try:
        return float(response.headers.get("Retry-After", 0))
    except ValueError:
        return 0.0


def _problem(response: httpx.Response) -> ProblemError:
    try:
        problem = response.json()
    except ValueError:
        problem = {"detail": response.text[:200] or response.reason_phrase}
    if not isinstance(problem, dict):
        problem = {"detail": str(problem)[:200]}
    return ProblemError(response.status_code, problem)


def _only(kind: type[T], data: dict[str, Any]) -> T:
    """The dataclass from the fields it knows, so a newer server is no error."""
    known = {each.name for each in fields(kind)}  # type: ignore[arg-type]
    return kind(**{name: value for name, value in data.items() if name in known})

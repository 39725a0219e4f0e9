"""A client of vLLM's HTTP interface (measured against 0.32.0).

Knows nothing of Django, of policies or of which server to ask, and never imports vllm.
Every failure becomes an InferenceError with one sentence. Model names are checked
against NAME before they are sent: vLLM joins them to paths.
"""

import ipaddress
import json
import math
import random
import re
import time
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import httpx

from inference.errors import InferenceError

NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")
"""A name given to vLLM: no slash, no capital, nothing hidden."""
UNSTORABLE = re.compile("[\0\ud800-\udfff]")
"""What models may sample and no database keeps: NUL, half a surrogate pair."""
LONGEST_ANSWER = 64 * 1024 * 1024
"""Bytes of one HTTP answer; more is refused instead of read into memory."""
Messages = list[dict[str, Any]]


@dataclass(frozen=True)
class Choice:
    """One sampled answer: token ids and their log-probs (nats), the end token included.

    Log-probs are raw, before temperature and top_p (vLLM's default logprobs_mode).
    """

    text: str
    token_ids: list[int]
    logprobs: list[float]
    finish_reason: str
    """stop (it ended itself) or length (it was cut off)."""


@dataclass(frozen=True)
class ChatAnswer:
    prompt_token_ids: list[int]
    choices: list[Choice]


class VLLMClient:
    """One server. Safe to share between threads, not between forked processes.

    `timeout` is how many seconds an answer may take; connecting may take 5. Requests
    that change nothing on the server are sent again after a refusal for load (503, or a
    proxy's 429), a failed connection and a broken one; loading and unloading only where
    the server cannot have acted. A time-out is never retried: the server is behind already.
    """

    def __init__(
        self,
        url: str,
        api_key: str = "",
        timeout: float = 120.0,
        attempts: int = 5,
        backoff: float = 0.25,
    ) -> None:
        self.url = checked_url(url)
        self.timeout = timeout
        self.attempts = attempts
        self.backoff = backoff
        self._http = httpx.Client(
            base_url=self.url,
            headers={"Authorization": f"Bearer {api_key}"} if api_key else {},
            timeout=httpx.Timeout(timeout, connect=5.0),
            # Who asks for how much at once is the caller's affair (SAMPLING_PAIRS).
            limits=httpx.Limits(max_connections=None),
            follow_redirects=False,
            # Reading the CA certificates takes a tenth of a second: only for https.
            verify=self.url.startswith("https:"),
            # A proxy of the environment is not for the model server next door.
            trust_env=False,
        )

    def close(self) -> None:
        self._http.close()

    def is_healthy(self) -> bool:
        """Whether the engine lives. True also while it drains and refuses requests."""
        try:
            return self._http.get("/health", timeout=5.0).status_code == 200
        except httpx.HTTPError:
            return False

    def models(self) -> list[str]:
        """The names that can be asked: the base's and the loaded adapters'."""
        return list(self.roots())

    def roots(self) -> dict[str, str]:
        """{name: the folder it was loaded from}."""
        answer = self._ask("GET", "/v1/models")
        with _expecting("the list of models"):
            return {str(m["id"]): str(m.get("root", "")) for m in answer["data"]}

    def chat(
        self,
        model: str,
        messages: Messages,
        n: int,
        seed: int | None,
        sampling: dict[str, Any],
    ) -> ChatAnswer:
        """Sample n answers in one request, all from the same policy.

        vLLM samples choice i with seed + i, so seeds of different requests must lie
        at least n apart. Raises InferenceError for any answer that did not end by
        itself or at its length (an aborted one comes with status 200 and half a text).
        """
        body = {
            **sampling,
            "model": checked_name(model),
            "messages": messages,
            "n": n,
            "logprobs": True,
            "top_logprobs": 0,
            "return_token_ids": True,
        }
        if seed is not None:
            body["seed"] = seed
        answer = self._ask("POST", "/v1/chat/completions", body)
        with _expecting("the sampled answers"):
            found = sorted(answer["choices"], key=lambda choice: choice["index"])
            if len(found) != n:
                raise ValueError(f"{len(found)} answers instead of {n}")
            return ChatAnswer(
                [int(i) for i in answer["prompt_token_ids"]],
                [_choice(c) for c in found],
            )

    def tokenize(self, messages: Messages) -> list[int]:
        """The token ids of a chat as the server renders it.

        An open chat (the last turn is not the assistant's) ends with the template's
        opening of the assistant's turn, as it does before sampling.
        """
        closed = bool(messages) and messages[-1].get("role") == "assistant"
        body = {"messages": messages, "add_generation_prompt": not closed}
        answer = self._ask("POST", "/tokenize", body)
        with _expecting("token ids"):
            return [int(token) for token in answer["tokens"]]

    def prompt_logprobs(self, model: str, token_ids: list[int]) -> list[float]:
        """Log-probs (nats) of token_ids[1:], each given the tokens before it."""
        body = {
            "model": checked_name(model),
            "prompt": token_ids,
            "max_tokens": 1,
            "temperature": 0,
            "prompt_logprobs": 0,
        }
        answer = self._ask("POST", "/v1/completions", body)
        with _expecting("log-probs of a prompt"):
            given = answer["choices"][0]["prompt_logprobs"]
            if len(given) != len(token_ids):
                raise ValueError(f"{len(given)} log-probs for {len(token_ids)} tokens")
            return [
                _finite(entry[str(token)]["logprob"])
                for token, entry in zip(token_ids[1:], given[1:], strict=True)
            ]

    def load_adapter(self, name: str, path: str) -> None:
        """Make `name` servable from the folder `path`; again changes nothing.

        vLLM checks next to nothing of it (shapes, base): see adapters.py, canary.py.
        """
        body = {"lora_name": checked_name(name), "lora_path": path}
        try:
            self._ask("POST", "/v1/load_lora_adapter", body, repeatable=False)
        except InferenceError as error:
            if "already been loaded" not in str(error):
                raise
            if (found := self.roots().get(name)) != path:
                raise InferenceError(
                    f"vLLM already serves {name}, but from another folder ({found}).",
                    permanent=True,
                ) from None

    def unload_adapter(self, name: str) -> None:
        """Forget `name`; running answers finish. Again changes nothing."""
        body = {"lora_name": checked_name(name)}
        try:
            self._ask("POST", "/v1/unload_lora_adapter", body, repeatable=False)
        except InferenceError:
            if name in self.models():
                raise

    def metrics(self) -> dict[str, float]:
        """vLLM's counters and gauges, each summed over its labels, by short name."""
        return _parse_metrics(self._send("GET", "/metrics", None, True).splitlines())

    # --- One request ---------------------------------------------------------------

    def _ask(
        self,
        method: str,
        path: str,
        body: dict[str, Any] | None = None,
        repeatable: bool = True,
    ) -> Any:
        text = self._send(method, path, body, repeatable)
        try:
            return json.loads(text)
        except ValueError:
            # Loading an adapter answers with a plain sentence.
            return text

    def _send(
        self, method: str, path: str, body: dict[str, Any] | None, repeatable: bool
    ) -> str:
        for attempt in range(1, self.attempts + 1):
            try:
                return self._once(method, path, body)
            except _TryAgain as refused:
                safe = repeatable or refused.nothing_happened
                if not safe or attempt == self.attempts:
                    raise InferenceError(str(refused)) from refused
            # Full jitter, so that refused clients do not come back together.
            time.sleep(random.uniform(0, self.backoff * 2**attempt))
        raise AssertionError("the last attempt answers or raises")

    def _once(self, method: str, path: str, body: dict[str, Any] | None) -> str:
        try:
            with self._http.stream(method, path, json=body) as response:
                text = _read(response)
        except (httpx.ConnectError, httpx.ConnectTimeout) as error:
            raise _TryAgain(
                "vLLM cannot be reached; it may be starting.", True
            ) from error
        except httpx.TimeoutException as error:
            raise InferenceError(
                f"vLLM did not answer within {self.timeout:g} seconds."
            ) from error
        except httpx.RequestError as error:  # Also what a proxy compressed wrongly.
            raise _TryAgain("vLLM broke off the connection.", False) from error
        if response.status_code == 200:
            return text
        raise _refusal(response.status_code, text)


class _TryAgain(Exception):
    def __init__(self, message: str, nothing_happened: bool) -> None:
        super().__init__(message)
        self.nothing_happened = nothing_happened


class _expecting:
    """Turns an answer of an unknown shape into a sentence."""

    def __init__(self, what: str) -> None:
        self.what = what

    def __enter__(self) -> None:
        pass

    def __exit__(
        self, kind: object, error: BaseException | None, trace: object
    ) -> None:
        if isinstance(error, KeyError | IndexError | TypeError | ValueError):
            raise InferenceError(
                f"vLLM's answer is not {self.what}: {error}"
            ) from error


def checked_url(url: str) -> str:
    """The URL without its final slash; raises InferenceError if it may not be asked."""
    parts = urlsplit(url)
    try:
        link_local = ipaddress.ip_address(parts.hostname or "").is_link_local
    except ValueError:
        link_local = False
    if parts.scheme not in ("http", "https") or not parts.hostname or link_local:
        raise InferenceError(
            f"{url} cannot be a vLLM server: give http:// or https:// and a host.",
            permanent=True,
        )
    return url.rstrip("/")


def checked_name(name: str) -> str:
    """The name, if it is one of ours; raises InferenceError."""
    if not NAME.fullmatch(name):
        raise InferenceError(f"{name!r} is not the name of a policy.", permanent=True)
    return name


def _choice(choice: dict[str, Any]) -> Choice:
    reason = choice["finish_reason"]
    if reason not in ("stop", "length"):
        raise InferenceError(f"vLLM ended an answer early ({reason}); it is not kept.")
    token_ids = [int(token) for token in choice["token_ids"]]
    logprobs = [_finite(entry["logprob"]) for entry in choice["logprobs"]["content"]]
    if len(token_ids) != len(logprobs):
        raise ValueError(f"{len(logprobs)} log-probs for {len(token_ids)} tokens")
    # As vLLM itself writes bytes that are no character; token_ids stay exact.
    text = UNSTORABLE.sub(
        "\N{REPLACEMENT CHARACTER}", choice["message"]["content"] or ""
    )
    return Choice(text, token_ids, logprobs, reason)


def _finite(value: Any) -> float:
    if not math.isfinite(number := float(value)):
        raise ValueError(f"a log-prob is {number}")
    return number


def _read(response: httpx.Response) -> str:
    parts, size = [], 0
    for part in response.iter_bytes():
        size += len(part)
        if size > LONGEST_ANSWER:
            raise InferenceError(
                f"vLLM's answer is longer than {LONGEST_ANSWER >> 20} MiB.",
                permanent=True,
            )
        parts.append(part)
    return b"".join(parts).decode("utf-8", errors="replace")


def _refusal(status: int, text: str) -> Exception:
    try:
        reason = json.loads(text)["error"]["message"]
    except (ValueError, KeyError, TypeError):
        reason = text.strip()[:300] or "no reason given"
    if status in (429, 503):
        return _TryAgain("vLLM has more requests than it can take.", True)
    if status == 500 and "after shutdown" in reason:
        return _TryAgain("vLLM is stopping.", True)
    if status in (401, 403):
        return InferenceError("vLLM refuses VLLM_API_KEY.", permanent=True)
    # What a restarted server has not loaded yet may be there in a moment.
    permanent = 400 <= status < 500 and status != 404
    return InferenceError(f"vLLM answered {status}: {reason}", permanent=permanent)


def _parse_metrics(lines: Iterable[str]) -> dict[str, float]:
    sums: dict[str, float] = {}
    for line in lines:
        found = re.fullmatch(r"vllm:(\w+)(?:\{.*\})? ([^ ]+)(?: \d+)?", line)
        if found and not found[1].endswith("_bucket"):
            sums[found[1]] = sums.get(found[1], 0.0) + float(found[2])
    return sums

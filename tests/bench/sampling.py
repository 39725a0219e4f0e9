"""Pairs sampled a second through our client, against the same vLLM asked barely.

Only where a vLLM is up at --url; else it says that it was left out. The budget (0.95
of vLLM's own offline throughput) is not measured here yet: one server cannot be its
own offline run, so the figure carries no budget.
"""

import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import httpx

from inference.errors import InferenceError
from inference.vllm import VLLMClient
from tests.bench.figures import Figure, load
from tests.bench.options import Options
from tests.bench.processes import BenchError

TOGETHER = 8
"""Requests at once, as the stock's workers send them (annotation/stock.py)."""

PAIRS, QUICK_PAIRS = 64, 16
SAMPLING = {"temperature": 1.0, "max_tokens": 128}


def measure(options: Options) -> Iterator[Figure]:
    if not options.url:
        options.say("sampling: left out; give --url of a vLLM that is up")
        return
    count = QUICK_PAIRS if options.quick else PAIRS
    client = VLLMClient(options.url)
    try:
        if not client.is_healthy():
            raise BenchError(f"no vLLM answers at {options.url}")
        model = client.models()[0]
        busy = load()
        with httpx.Client(base_url=client.url, timeout=120, trust_env=False) as http:
            ways = (_ours(client, model), _bare(http, model))
            for way in ways:  # warm up
                _per_second(way, TOGETHER)
            ours, theirs = [], []
            for turn in range(1, max(options.repeats, 2) + 1):
                options.say(f"sampling: {count} pairs each, turn {turn}")
                theirs.append(_per_second(ways[1], count))
                ours.append(_per_second(ways[0], count))
    except (InferenceError, httpx.HTTPError) as error:
        raise BenchError(str(error)) from error
    finally:
        client.close()
    yield Figure(
        "sampling/pairs",
        max(ours),
        "pairs/s",
        "bare requests",
        max(theirs),
        note=f"{TOGETHER} at once, {SAMPLING['max_tokens']} tokens at most, {busy}",
    )


def _messages(number: int) -> list[dict[str, str]]:
    return [{"role": "user", "content": f"How do I make tea for {number} people?"}]


def _ours(client: VLLMClient, model: str) -> Callable[[int], None]:
    def pair(number: int) -> None:
        client.chat(model, _messages(number), 2, 1000 + 2 * number, SAMPLING)

    return pair


def _bare(http: httpx.Client, model: str) -> Callable[[int], None]:
    """The same request; the answer is not even read as JSON."""

    def pair(number: int) -> None:
        body = {
            **SAMPLING,
            "model": model,
            "messages": _messages(number),
            "n": 2,
            "seed": 1000 + 2 * number,
            "logprobs": True,
            "top_logprobs": 0,
            "return_token_ids": True,
        }
        http.post("/v1/chat/completions", json=body).raise_for_status()

    return pair


def _per_second(way: Callable[[int], None], count: int) -> float:
    begun = time.perf_counter()
    with ThreadPoolExecutor(TOGETHER) as pool:
        list(pool.map(way, range(count)))
    return count / (time.perf_counter() - begun)

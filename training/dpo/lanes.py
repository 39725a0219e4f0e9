"""Several forward passes at once, each on a thread of its own.

A product of a few hundred rows is too small to be shared out among threads; whole passes
are not. Each lane gets its share of torch's threads, mostly one. Results come in the order
of the parts and depend on how many threads there are, not on which lane was quicker.
Leaves out GPUs, whose queue takes one pass after the other.
"""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

import torch

Part = TypeVar("Part")
Result = TypeVar("Result")

AHEAD = 2
"""Parts a lane that may wait or be done before the first result is taken."""


def side_by_side(
    function: Callable[[Part], Result], parts: Sequence[Part], lanes: int
) -> Iterator[Result]:
    """Yield `function(part)` of each part, in their order, on up to `lanes` threads.

    Gradients are recorded there if they are here. What a part raises comes out in its
    turn; parts that run then are waited for, later ones are not begun.
    """
    lanes = min(lanes, len(parts))
    if lanes <= 1:
        yield from map(function, parts)
        return
    threads, records = torch.get_num_threads(), torch.is_grad_enabled()

    def run(part: Part) -> Result:
        with torch.set_grad_enabled(records):
            return function(part)

    pool = ThreadPoolExecutor(
        lanes,
        thread_name_prefix="lane",
        initializer=torch.set_num_threads,
        initargs=(max(1, threads // lanes),),
    )
    waiting: deque[Future[Result]] = deque()
    try:
        for part in parts:
            if len(waiting) == AHEAD * lanes:
                yield waiting.popleft().result()
            waiting.append(pool.submit(run, part))
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)
        # A lane's number is its own, but also what torch gives to threads to come.
        torch.set_num_threads(threads)

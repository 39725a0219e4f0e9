"""`python -m inference.starter OUT_DIR`: builds the starter model there.

Shows a progress bar with the time left on stderr and prints one line at the
end. A second call returns at once. Exits 1 with one sentence where the build
cannot go on, 130 or 143 where a signal stopped it; a stopped build starts anew.
"""

import argparse
import os
import signal
import sys
from pathlib import Path

from inference.starter.build import BuildError, build


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m inference.starter")
    parser.add_argument("out_dir", type=Path, help="folder of the model")
    parser.add_argument("--steps", type=int, help="optimizer steps")
    parser.add_argument("--seed", type=int, help="seed of chats and weights")
    options = parser.parse_args(arguments)
    changes = {
        name: value
        for name in ("steps", "seed")
        if (value := getattr(options, name)) is not None
    }
    # Neither the tokenizer's threads nor a network may decide what comes out.
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    os.environ["HF_HUB_OFFLINE"] = "1"
    # Threads that spin while they wait make a busy machine several times slower.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    signal.signal(signal.SIGTERM, _stop)
    try:
        digest = build(options.out_dir.absolute(), **changes)
    except BuildError as error:
        print(error, file=sys.stderr)
        return 1
    except Stopped as stopped:
        return _say_stopped(stopped.number)
    except KeyboardInterrupt:
        return _say_stopped(signal.SIGINT)
    print(f"starter model: {options.out_dir} (sha256 {digest[:12]})")
    return 0


class Stopped(BaseException):
    """A signal asked the build to end; no `except Exception` may swallow it."""

    def __init__(self, number: int) -> None:
        self.number = number


def _stop(number: int, _frame: object) -> None:
    raise Stopped(number)


def _say_stopped(number: int) -> int:
    print("Stopped; the next build starts anew.", file=sys.stderr)
    return 128 + number


if __name__ == "__main__":
    sys.exit(main())

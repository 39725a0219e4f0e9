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
    signal.signal(signal.SIGTERM, _stop)
    try:
        digest = build(options.out_dir.absolute(), **changes)
    except BuildError as error:
        print(error, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("Stopped; the next build starts anew.", file=sys.stderr)
        return 130
    print(f"starter model: {options.out_dir} (sha256 {digest[:12]})")
    return 0


def _stop(number: int, frame: object) -> None:
    print("Stopped; the next build starts anew.", file=sys.stderr)
    raise SystemExit(128 + number)


if __name__ == "__main__":
    sys.exit(main())

"""`python -m training.dpo RUN_DIR`: train the run in a folder.

`python -m training.dpo sweep RUN_DIR --beta 0.05,0.1 …`: train it with several settings and
rank them; see `sweep.py`.

Exit codes: 0 done; 75 stopped by a signal, to be resumed by the same command; 73
another trainer holds the folder; 1 failed, with one sentence as the last line on
stderr. `RUN_DIR/status.json` says the same. On several processes:
`torchrun --nproc-per-node=2 -m training.dpo RUN_DIR`; torchrun's own exit code is then 1
whatever they answer, and status.json tells.
"""

import argparse
import contextlib
import os
import sys
import traceback
from pathlib import Path
from typing import NoReturn

from training.dpo.errors import FolderLocked, Stopped, TrainerError, sentence_of
from training.dpo.process import (
    PARENT_VARIABLE,
    TORCHRUN_VARIABLE,
    StopFlag,
    pass_on_niceness,
)

DONE, FAILED, LOCKED, STOPPED = 0, 1, 73, 75


def main(arguments: list[str] | None = None) -> int:
    """Run and return the exit code."""
    given = sys.argv[1:] if arguments is None else arguments
    is_sweep = given[:1] == ["sweep"]
    options = None if is_sweep else _options(given)
    # Read when torch loads its threads: ones that spin for long starve each other on a
    # machine that is busy with serving as well, ones that sleep at once wake too late
    # for the many short products. So many turns take GNU's OpenMP a few microseconds.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")
    stop = StopFlag()
    stop.install()
    try:
        if options is None:
            _sweep(given[1:], stop)
        else:
            _train(options, stop)
    except Stopped as stopped:
        return _end(f"Stopped: {stopped}.", STOPPED)
    except FolderLocked as locked:
        return _end(str(locked), LOCKED)
    except TrainerError as failure:
        return _end(str(failure), FAILED)
    except Exception as error:
        traceback.print_exc()
        return _end(sentence_of(error), FAILED)
    return DONE


def _options(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m training.dpo", description=__doc__)
    parser.add_argument(
        "run_dir", type=Path, help="folder with config.json, pairs.jsonl"
    )
    parser.add_argument(
        "--die-with-parent",
        type=int,
        metavar="PID",
        default=os.environ.get(PARENT_VARIABLE) or None,
        help=f"stop when this parent process dies (or set {PARENT_VARIABLE})",
    )
    parser.add_argument(
        "--check",
        action="store_true",
        help="only look: rows, steps, time, memory, disk, warnings (preflight.json)",
    )
    return parser.parse_args(arguments)


def _train(options: argparse.Namespace, stop: StopFlag) -> None:
    if TORCHRUN_VARIABLE in os.environ:
        # torchrun passes on to us whose child torchrun is.
        stop.die_with_torchrun()
        pass_on_niceness()
    elif options.die_with_parent:
        stop.die_with_parent(options.die_with_parent)
    if not options.run_dir.is_dir():
        raise TrainerError(f"{options.run_dir} is no folder.")
    # Loaded only now, so that a signal during this import is a tidy stop.
    import torch

    if not torch.cuda.is_available():
        # It compiles for GPUs only, and would be loaded to take 70 MiB.
        sys.modules.setdefault("triton", None)  # type: ignore[arg-type]
    from transformers.utils.logging import disable_progress_bar

    from training.dpo.distributed import join, leave
    from training.dpo.machine import keep_freed_memory
    from training.dpo.run import check_folder, run_folder

    disable_progress_bar()
    keep_freed_memory()
    join()
    (check_folder if options.check else run_folder)(options.run_dir, stop)
    leave()


def _sweep(arguments: list[str], stop: StopFlag) -> None:
    if TORCHRUN_VARIABLE in os.environ:
        raise TrainerError(
            "A sweep starts its trials itself: start it without torchrun, several at"
            " once with --jobs."
        )
    from training.dpo.sweep import sweep

    sweep(arguments, stop)


def _end(sentence: str, code: int) -> int:
    print(" ".join(sentence.split()), file=sys.stderr, flush=True)
    return code


def _leave(code: int) -> NoReturn:
    """End at once: Python takes a second and more to take torch apart, for which whoever
    waits for the round waits. Every file is written by now, every thread done."""
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):  # the reader may be gone
            stream.flush()
    os._exit(code)


if __name__ == "__main__":
    _leave(main())

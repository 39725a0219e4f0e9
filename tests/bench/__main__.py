"""`python -m tests.bench [NAME…] [--quick]`: measure part by part, then show a table.

Exit code 0 whatever the figures are, met or not; 1 if a part could not be measured.
"""

import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from config.ops.steps import exit_on_sigterm
from tests.bench import judging, loop, start, trainer
from tests.bench.figures import Figure, as_line, markdown, setting, table
from tests.bench.options import Options, kept_figures, parse
from tests.bench.processes import BenchError

PARTS: dict[str, Callable[[Options], Iterator[Figure]]] = {
    "trainer": trainer.measure,
    "judging": judging.measure,
    "scale": judging.measure_scale,
    "loop": loop.measure,
    "start": start.measure,
}


def main(arguments: Sequence[str]) -> int:
    where = setting()
    failed = []
    with tempfile.TemporaryDirectory(prefix="tiebreak-bench-") as folder:
        options = parse(arguments, list(PARTS), Path(folder))
        figures: list[Figure] = []
        if options.keep is not None:
            options.keep.parent.mkdir(parents=True, exist_ok=True)
            # Uncommitted work is not told apart, so nothing of it is taken up.
            if not where.commit.endswith("+"):
                figures += kept_figures(options.keep, where.machine, where.commit)
            options = replace(options, kept=list(figures))
        for name in options.names:
            try:
                for figure in PARTS[name](options):
                    _tell(as_line(figure, where), options)
                    figures.append(figure)
            except BenchError as error:
                options.say(f"{name} could not be measured: {error}")
                failed.append(name)
    if figures:
        print(f"\n{where.machine}, commit {where.commit}, {where.date}")
        print(markdown(figures) if options.markdown else table(figures))
    return 1 if failed else 0


def _tell(line: str, options: Options) -> None:
    """At once, and to the file as well: a bench that is killed loses nothing."""
    print(line, flush=True)
    if options.keep is not None:
        with options.keep.open("a", encoding="utf-8") as file:
            file.write(line + "\n")


if __name__ == "__main__":
    exit_on_sigterm()
    try:
        sys.exit(main(sys.argv[1:]))
    except KeyboardInterrupt:
        sys.exit(130)

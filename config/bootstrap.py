"""The door of every `make` target: `python3 config/bootstrap.py COMMAND [args]`.

Runs with the system's Python before anything is installed, so it uses the standard
library alone, and it is written so that even an old Python can read it and be told
what to do. What the commands do is in config/ops/commands.py.
"""

import os
import shutil
import sys

OLDEST, NEWEST = (3, 11), (3, 13)


def find_python():
    """Go on with a Python that fits, if this one does not; else say what to do."""
    if OLDEST <= sys.version_info[:2] <= NEWEST:
        return
    for minor in range(OLDEST[1], NEWEST[1] + 1):
        other = shutil.which("python3.%d" % minor)  # noqa: UP031
        if other:
            os.execv(other, [other] + sys.argv)
    sys.exit(
        "tiebreak: Python 3.11 is needed and this is %d.%d. Install it (Debian, Ubuntu: "  # noqa: UP031
        "apt-get install python3.11 python3.11-venv), then run the same command again."
        % sys.version_info[:2]
    )


if __name__ == "__main__":
    find_python()
    # The install compiles nothing (see docs/decisions.md): unless what Python compiles at
    # the first start is kept, every start compiles torch and all the rest again.
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    # This folder holds a celery.py of ours, which must not hide the package.
    HERE = sys.path.pop(0)
    sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
    from ops import commands

    sys.path.pop(0)
    sys.exit(commands.main(sys.argv[1:]))

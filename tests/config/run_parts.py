"""Supervises the parts given as JSON, as `make run` does with the real ones.

A program of its own, because the tests kill it: run_parts.py CONFIG_DIR DATA_DIR PARTS
"""

import json
import sys
from pathlib import Path

if __name__ == "__main__":
    sys.path[0] = sys.argv[1]
    from ops.checks import make_data_dir
    from ops.stack import Part, supervise

    data_dir = Path(sys.argv[2])
    make_data_dir(data_dir)
    sys.exit(supervise([Part(**p) for p in json.loads(sys.argv[3])], data_dir))

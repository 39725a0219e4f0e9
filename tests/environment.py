"""Loaded before Django's settings (`-p tests.environment`): tests never touch var/.

Every process of a test run (xdist's workers too) gets a data folder of its own.
"""

import atexit
import os
import shutil
import tempfile

_folder = tempfile.mkdtemp(prefix="tiebreak-test-")
# Where collected static files would be; whitenoise warns at its absence.
os.mkdir(os.path.join(_folder, "static"))
atexit.register(shutil.rmtree, _folder, ignore_errors=True)

os.environ["DATA_DIR"] = _folder
os.environ["SECRET_KEY"] = "only for tests"
os.environ["STATIC_MANIFEST"] = "0"
os.environ.setdefault("HF_HUB_OFFLINE", "1")
# trl warns at each import of its experimental parts
os.environ.setdefault("TRL_EXPERIMENTAL_SILENCE", "1")
for _name in ("MODEL", "REDIS_URL", "VLLM_URLS"):
    os.environ.pop(_name, None)

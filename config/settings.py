"""All settings, from the environment or `.env`; the README lists each of them.

What a project may differ in (rules, sampling, quota …) is not here but in the
project's own settings, see annotation/project_settings.py.
"""

import hashlib
import importlib.util
import logging
import math
import re
import secrets
import shlex
import sys
import tempfile
import zoneinfo
from collections.abc import Collection
from datetime import timedelta
from pathlib import Path
from typing import Any

from environs import Env, EnvError

from config.beat import every

BASE_DIR = Path(__file__).resolve().parent.parent


class _Env(Env):
    """An empty setting is one that is not given: `NAME=` in .env, `docker run -e NAME=`."""

    def _get_value(self, env_key: str, default: Any) -> Any:
        return super()._get_value(env_key, default) or default

    def one_of(self, name: str, default: str, known: Collection[str], must: str) -> str:
        """Refused at the start: later the word would be an error of somebody else, or
        taken for its opposite without one."""
        value = self.str(name, default)
        if value not in known:
            raise refused(name, f"Must be {must}, not {value!r}.")
        return value

    def each(self, name: str, pattern: str, must: str) -> list[str]:
        """What stands between commas, spaces around it left out; each is held to the
        pattern as a whole."""
        values = [value.strip() for value in self.list(name, [])]
        for value in filter(None, values):
            if not re.fullmatch(pattern, value):
                raise refused(name, f"Each must be {must}, not {value!r}.")
        return [value for value in values if value]

    def whole(self, name: str, default: int, least: int, most: float = math.inf) -> int:
        value = self.int(name, default)
        if not least <= value <= most:
            must = f"from {least} to {most}" if most < math.inf else f"{least} or more"
            raise refused(name, f"Must be {must}, not {value}.")
        return value

    def seconds(self, name: str, default: float) -> float:
        value = self.float(name, default)
        if value <= 0:
            raise refused(name, f"Must be above 0, not {value:g}.")
        return value

    def command(self, name: str) -> list[str]:
        """The words of a command line, as a shell would take it apart."""
        try:
            return shlex.split(self.str(name, ""))
        except ValueError as error:
            raise refused(name, f"{error}; close it, or put \\ before it.") from error


def refused(name: str, why: str) -> EnvError:
    """In the words of environs."""
    return EnvError(f'Environment variable "{name}" invalid: {why}')


env = _Env()
env.read_env(BASE_DIR / ".env", recurse=False)

# --- Where things are kept -------------------------------------------------------
DATA_DIR = (BASE_DIR / env.path("DATA_DIR", "var")).resolve()
# The database holds sessions: none of it is for other accounts of this machine.
DATA_DIR.mkdir(mode=0o700, parents=True, exist_ok=True)
POLICIES_DIR = DATA_DIR / "policies"
ROUNDS_DIR = DATA_DIR / "rounds"
MODELS_DIR = DATA_DIR / "models"
REFERENCE_CACHE_DIR = DATA_DIR / "reference-cache"
# Uploaded files until they are imported.
IMPORTS_DIR = DATA_DIR / "imports"


def _kept_secret(path: Path) -> str:
    """The secret made at the first start, readable by the owner alone."""
    if not path.exists():
        fresh = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
        fresh.touch(mode=0o600)
        fresh.write_text(secrets.token_urlsafe(50))
        try:
            # link, not rename: of two processes that start together, the first wins.
            path.hardlink_to(fresh)
        except FileExistsError:
            pass
        finally:
            fresh.unlink()
    return path.read_text()


# --- Web ---------------------------------------------------------------------------
DEBUG = env.bool("DEBUG", False)
SECRET_KEY = env.str("SECRET_KEY", "") or _kept_secret(DATA_DIR / "secret_key")
HOST = env.str("HOST", "127.0.0.1")
PORT = env.whole("PORT", 8000, 1, 65535)
LOOPBACK = ["127.0.0.1", "localhost", "[::1]"]
# This machine may always ask: `make run` waits for its own /readyz.
ALLOWED_HOSTS = [
    *env.each(
        "ALLOWED_HOSTS",
        r"[^\s/:]+|\[[0-9A-Fa-f:.]+\]",
        "a name without https:// and port, such as tiebreak.example",
    ),
    *LOOPBACK,
]
# As browsers send them, or every form would be answered 403: in lower case, and without
# the port that the scheme has anyway.
CSRF_TRUSTED_ORIGINS = [
    re.sub(r"(?<=^http)(://.*):80$|(?<=^https)(://.*):443$", r"\1\2", origin.lower())
    for origin in env.each(
        "CSRF_TRUSTED_ORIGINS",
        r"(?i)https?://[^\s/]+",
        "http:// or https:// and a name, with nothing after it, such as https://tiebreak.example",
    )
]
HTTPS = env.bool("HTTPS", False)
SESSION_COOKIE_SECURE = CSRF_COOKIE_SECURE = SECURE_SSL_REDIRECT = HTTPS
# Those who watch the site ask it past the proxy, by plain HTTP.
SECURE_REDIRECT_EXEMPT = [r"^livez$", r"^readyz$"]
SECURE_HSTS_SECONDS = 31_536_000 if HTTPS else 0
SECURE_HSTS_INCLUDE_SUBDOMAINS = SECURE_HSTS_PRELOAD = HTTPS
SECURE_PROXY_SSL_HEADER = ("HTTP_X_FORWARDED_PROTO", "https") if HTTPS else None
SECURE_REFERRER_POLICY = "same-origin"
SESSION_COOKIE_AGE = 14 * 24 * 3600
X_FRAME_OPTIONS = "DENY"
# A file that a call takes as its body, which is read a line at a time.
UPLOAD_MAX_BYTES = env.whole("UPLOAD_MAX_BYTES", 64 * 1024 * 1024, 1)
# A form or the JSON of a call, which are held in memory many times over: of 60 MiB sent
# by anybody a form took 250 MB and seconds, JSON 1.6 GB. Two edited answers fit in.
DATA_UPLOAD_MAX_MEMORY_SIZE = 4 * 1024 * 1024

# --- Import ------------------------------------------------------------------------
# A file that a page takes, and what archives may unpack to.
IMPORT_MAX_BYTES = env.whole("IMPORT_MAX_BYTES", 1024**3, 1)
IMPORT_MAX_UNPACKED_BYTES = env.whole("IMPORT_MAX_UNPACKED_BYTES", 8 * 1024**3, 1)
# A folder on the server from which managers may import; empty: none.
IMPORT_DIR = env.str("IMPORT_DIR", "")
FILE_UPLOAD_HANDLERS = [
    "annotation.uploads.Capped",
    "django.core.files.uploadhandler.MemoryFileUploadHandler",
    "django.core.files.uploadhandler.TemporaryFileUploadHandler",
]

ROOT_URLCONF = "config.urls"
WSGI_APPLICATION = "config.wsgi.application"
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
LOGIN_URL = "login"
LOGIN_REDIRECT_URL = "home"
LOGOUT_REDIRECT_URL = "login"

INSTALLED_APPS = [
    "django.contrib.admin",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.sessions",
    "django.contrib.messages",
    "django.contrib.staticfiles",
    "django_htmx",
    "template_partials",
    "axes",
    "rest_framework",
    "knox",
    "drf_spectacular",
    "drf_spectacular_sidecar",
    "inference",
    "annotation",
    "training",
]

MIDDLEWARE = [
    "django.middleware.security.SecurityMiddleware",
    "whitenoise.middleware.WhiteNoiseMiddleware",
    "config.caching.keep_nothing",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.locale.LocaleMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
    "csp.middleware.CSPMiddleware",
    "django_htmx.middleware.HtmxMiddleware",
    "axes.middleware.AxesMiddleware",
]

TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "DIRS": [BASE_DIR / "templates"],
        "APP_DIRS": True,
        "OPTIONS": {
            "context_processors": [
                "django.template.context_processors.request",
                "django.template.context_processors.i18n",
                "django.contrib.auth.context_processors.auth",
                "django.contrib.messages.context_processors.messages",
            ]
        },
    }
]

# No inline code anywhere; a violation fails the browser tests.
CONTENT_SECURITY_POLICY = {
    "DIRECTIVES": {
        "default-src": ["'none'"],
        "script-src": ["'self'"],
        "style-src": ["'self'"],
        "img-src": ["'self'"],
        "connect-src": ["'self'"],
        "font-src": ["'self'"],
        "manifest-src": ["'self'"],
        "form-action": ["'self'"],
        "base-uri": ["'none'"],
        "frame-ancestors": ["'none'"],
    }
}

STATIC_URL = "/static/"
STATIC_ROOT = DATA_DIR / "static"
# Chart.js 4 comes inside django-unfold, which is otherwise not used.
_UNFOLD = importlib.util.find_spec("unfold")
assert _UNFOLD and _UNFOLD.submodule_search_locations, "django-unfold is not installed"
STATICFILES_DIRS = [
    BASE_DIR / "static",
    (
        "chartjs",
        Path(_UNFOLD.submodule_search_locations[0]) / "static/unfold/js/chart",
    ),
]
STORAGES = {
    "default": {"BACKEND": "django.core.files.storage.FileSystemStorage"},
    "staticfiles": {
        "BACKEND": "whitenoise.storage.CompressedManifestStaticFilesStorage"
        if env.bool("STATIC_MANIFEST", True)
        else "django.contrib.staticfiles.storage.StaticFilesStorage"
    },
}
WHITENOISE_USE_FINDERS = not env.bool("STATIC_MANIFEST", True)

# --- Database ------------------------------------------------------------------------
DATABASES = {
    "default": env.dj_db_url(
        "DATABASE_URL", f"sqlite:///{DATA_DIR / 'tiebreak.sqlite3'}", conn_max_age=60
    )
}
if DATABASES["default"]["ENGINE"] == "django.db.backends.sqlite3":
    DATABASES["default"]["ENGINE"] = "config.sqlite"
    DATABASES["default"]["OPTIONS"] = {
        # IMMEDIATE: a transaction that reads and then writes never fails half-way.
        "transaction_mode": "IMMEDIATE",
        "timeout": 20,
        # FULL: an acknowledged judgment survives a power cut.
        "init_command": "PRAGMA journal_mode=WAL; PRAGMA synchronous=FULL;",
    }
    # A file, not memory: tests race several processes on it.
    DATABASES["default"]["TEST"] = {"NAME": str(DATA_DIR / "test.sqlite3")}

elif DATABASES["default"]["ENGINE"] == "django.db.backends.postgresql":
    # The judging request's statements (annotation/sql.py) are planned once for each
    # connection, from their second call on; the ORM's never are.
    DATABASES["default"].setdefault("OPTIONS", {}).setdefault("prepare_threshold", 1)
else:
    raise refused("DATABASE_URL", "Must begin with postgresql://.")

# --- Accounts ------------------------------------------------------------------------
AUTH_PASSWORD_VALIDATORS = [
    {"NAME": f"django.contrib.auth.password_validation.{name}"}
    for name in (
        "UserAttributeSimilarityValidator",
        "MinimumLengthValidator",
        "CommonPasswordValidator",
        "NumericPasswordValidator",
    )
]

AUTHENTICATION_BACKENDS = [
    "axes.backends.AxesStandaloneBackend",
    "django.contrib.auth.backends.ModelBackend",
]
# Ten wrong passwords for one name from one address: ten minutes' wait, there alone, so
# that nobody can lock somebody else out.
AXES_FAILURE_LIMIT = 10
AXES_COOLOFF_TIME = timedelta(minutes=10)
AXES_RESET_COOL_OFF_ON_FAILURE_DURING_LOCKOUT = False
AXES_RESET_ON_SUCCESS = True
AXES_LOCKOUT_PARAMETERS = [["username", "ip_address"]]
AXES_CLIENT_IP_CALLABLE = "config.sign_in.client_address"
AXES_USERNAME_CALLABLE = "config.sign_in.username"
AXES_LOCKOUT_TEMPLATE = "registration/locked.html"
# Who signed in when is nobody's business; failures go once their time is over.
AXES_DISABLE_ACCESS_LOG = True
AXES_ENABLE_ADMIN = AXES_VERBOSE = False

# --- API -----------------------------------------------------------------------------
REST_FRAMEWORK = {
    "DEFAULT_AUTHENTICATION_CLASSES": [
        "annotation.api.auth.BearerToken",
        "rest_framework.authentication.SessionAuthentication",
    ],
    "DEFAULT_PERMISSION_CLASSES": ["rest_framework.permissions.IsAuthenticated"],
    "DEFAULT_RENDERER_CLASSES": ["rest_framework.renderers.JSONRenderer"],
    "DEFAULT_PARSER_CLASSES": ["annotation.api.parsing.SafeJSONParser"],
    "DEFAULT_SCHEMA_CLASS": "drf_spectacular.openapi.AutoSchema",
    "EXCEPTION_HANDLER": "config.problems.handle_exception",
    # `?format=` is a parameter of exports; elsewhere it would turn an answer to 404.
    "URL_FORMAT_OVERRIDE": None,
}
REST_KNOX = {"AUTH_HEADER_PREFIX": "Bearer", "TOKEN_TTL": None}
SPECTACULAR_SETTINGS = {
    "TITLE": "Tiebreak",
    "VERSION": "1",
    "DESCRIPTION": (
        "The loop over HTTP: judge comparisons, start rounds, deploy policies. Send"
        " `Authorization: Bearer TOKEN`; `manage.py create_token USERNAME` on the server"
        " prints one."
    ),
    "SERVE_INCLUDE_SCHEMA": False,
    "SCHEMA_PATH_PREFIX": "/api/v1/",
    # Field descriptions name the values already.
    "ENUM_GENERATE_CHOICE_DESCRIPTION": False,
    # Two fields are called verdict: an annotator's and a reviewer's.
    "ENUM_NAME_OVERRIDES": {
        "VerdictEnum": "annotation.models.Verdict",
        "ReviewVerdictEnum": "annotation.adjudicating.VERDICTS",
    },
}

# --- Redis and Celery ------------------------------------------------------------------
# Unix socket paths end at 107 bytes, so a deep DATA_DIR gets a short one elsewhere.
REDIS_SOCKET = DATA_DIR / "redis" / "redis.sock"
if len(str(REDIS_SOCKET)) > 100:
    _digest = hashlib.sha256(str(DATA_DIR).encode()).hexdigest()[:12]
    REDIS_SOCKET = Path(tempfile.gettempdir()) / f"tiebreak-{_digest}.sock"
REDIS_URL = env.str("REDIS_URL", "")
# Sentinel would need more than an address.
_BROKER = r"rediss?://([^/].*|(/\d*)?)|redis\+socket://[^/]*/.+"
if REDIS_URL and not re.fullmatch(_BROKER, REDIS_URL):
    # Not told what it is: it may hold a password.
    raise refused("REDIS_URL", "Must be such as redis://host:6379/0.")
CELERY_BROKER_URL = REDIS_URL or f"redis+socket://{REDIS_SOCKET}"
CELERY_BROKER_CONNECTION_RETRY_ON_STARTUP = True
CELERY_BROKER_TRANSPORT_OPTIONS = {
    # Without time-outs a silent broker blocks the request that publishes.
    "socket_timeout": 5,
    "socket_connect_timeout": 2,
    "socket_keepalive": True,
    # A broker that is down must not hold up a judgment: publishing gives up at once
    # (kombu's own default waits 2 + 4 s), and the beat makes up for it.
    "max_retries": 1,
    "interval_start": 0,
    "interval_step": 0,
    "visibility_timeout": 3600,
}
CELERY_TASK_IGNORE_RESULT = True
CELERY_TASK_DEFAULT_QUEUE = "default"
CELERY_TASK_ROUTES = {
    "annotation.tasks.fill_stock": {"queue": "generate"},
    "training.tasks.train_round": {"queue": "gpu"},
}
CELERY_WORKER_PREFETCH_MULTIPLIER = 1
CELERY_WORKER_HIJACK_ROOT_LOGGER = False
CELERY_WORKER_SOFT_SHUTDOWN_TIMEOUT = 30
# In memory: when a task was last sent matters to nobody after a restart.
CELERY_BEAT_SCHEDULER = "celery.beat:Scheduler"
CELERY_BEAT_SCHEDULE = {
    "fill-stocks": every(5, "annotation.tasks.fill_stocks"),
    # While one is at a large import, the next ones would only queue up behind it.
    "check-pairs": every(10, "annotation.tasks.check_pairs", expires=10),
    "tend-imports": every(15, "annotation.tasks.tend_imports", expires=15),
    "weigh-annotators": every(300, "annotation.tasks.weigh_annotators"),
    "refresh-figures": every(60, "annotation.tasks.refresh_wanted_figures"),
    "rerender": every(30, "annotation.tasks.rerender"),
    "reconcile": every(15, "training.tasks.reconcile"),
}

# --- Model and vLLM ----------------------------------------------------------------------
# A folder or a hub id; empty means the starter model.
MODEL = env.str("MODEL", "")
MODEL_DTYPE = env.one_of(
    "MODEL_DTYPE",
    "auto",
    ("auto", "float32", "bfloat16"),
    "auto, float32 or bfloat16",
)
# Servers run by somebody else; empty means that `manage.py run_vllm` runs one.
VLLM_URLS = env.each(
    "VLLM_URLS",
    r"https?://[^\s/?#]+([^\s?#]*(?<!/v1)(?<!/v1/))",
    "http:// or https:// and a host, without /v1, such as http://gpu1:8001",
)
VLLM_API_KEY = env.str("VLLM_API_KEY", "")
VLLM_PORT = env.whole("VLLM_PORT", 8001, 1, 65535)
VLLM_ARGS = env.command("VLLM_ARGS")
# Seconds an answer may take, and seconds until a starting server counts as stuck.
VLLM_TIMEOUT = env.seconds("VLLM_TIMEOUT", 120.0)
VLLM_START_TIMEOUT = env.seconds("VLLM_START_TIMEOUT", 900.0)
VLLM_MAX_LORA_RANK = env.whole("VLLM_MAX_LORA_RANK", 64, 1, 512)
VLLM_MAX_MODEL_LEN = env.whole("VLLM_MAX_MODEL_LEN", 2048, 1)
VLLM_KV_CACHE_GIB = env.whole("VLLM_KV_CACHE_GIB", 1, 0)
# Seeds make a pair repeatable; on GPUs they slow sampling down.
SAMPLING_SEEDS = env.bool("SAMPLING_SEEDS", True)
# Pairs that each vLLM is asked for at a time; 0 chooses by what it runs on.
SAMPLING_PAIRS = env.whole("SAMPLING_PAIRS", 0, 0)
# "keep" trains beside the server; "stop" ends it first, for one GPU too small for both.
VLLM_WHILE_TRAINING = env.one_of(
    "VLLM_WHILE_TRAINING", "keep", ("keep", "stop"), "keep or stop"
)

# --- Rounds --------------------------------------------------------------------------
# The trainer; for several GPUs e.g. "torchrun --nproc-per-node=4 -m training.dpo".
TRAINER_COMMAND = env.command("TRAINER_COMMAND") or [
    sys.executable,
    "-m",
    "training.dpo",
]
# How often a round's supervisor looks at its trainer, seconds.
ROUND_TICK = env.seconds("ROUND_TICK", 1.0)
# Its heartbeat is older than this: the supervisor is gone, the round is queued again.
ROUND_HEARTBEAT_LIMIT = env.seconds("ROUND_HEARTBEAT_LIMIT", 60.0)
# The trainer has shown no progress for this long: it hangs and is ended.
ROUND_STALL_LIMIT = env.seconds("ROUND_STALL_LIMIT", 1800.0)
# What a trainer is given to write its checkpoint when it is asked to stop.
ROUND_STOP_LIMIT = env.seconds("ROUND_STOP_LIMIT", 45.0)
# A queued round is told to Celery again after this long.
ROUND_NUDGE_AFTER = env.seconds("ROUND_NUDGE_AFTER", 30.0)
# Attempts that may be lost (killed, out of memory, machine gone) before a round fails.
ROUND_ATTEMPTS = env.whole("ROUND_ATTEMPTS", 3, 1)

# --- Language and time -----------------------------------------------------------------
LANGUAGES = [("en", "English"), ("zh-hans", "简体中文")]
# One of each language, so that en-us, zh-CN and zh_Hans are those, too.
_codes = {code.partition("-")[0]: code for code, _ in LANGUAGES}
_given = env.str("LANGUAGE_CODE", "en")
LANGUAGE_CODE = _codes.get(re.split("[-_]", _given.lower())[0], "")
if not LANGUAGE_CODE:
    must = f"Must be {' or '.join(_codes.values())}, not {_given!r}."
    raise refused("LANGUAGE_CODE", must)
LOCALE_PATHS = [BASE_DIR / "config" / "locale"]
FORMAT_MODULE_PATH = ["config.formats"]
USE_I18N = USE_TZ = True
TIME_ZONE = env.str("TIME_ZONE", "UTC")
try:
    zoneinfo.ZoneInfo(TIME_ZONE)  # To list them all would open some 600 files.
except (zoneinfo.ZoneInfoNotFoundError, ValueError, OSError) as error:
    why = f"Must be one such as Asia/Shanghai, not {TIME_ZONE!r}."
    raise refused("TIME_ZONE", why) from error

LOGGING = {
    "version": 1,
    "disable_existing_loggers": False,
    "formatters": {
        "line": {"format": "%(asctime)s %(levelname)s %(name)s: %(message)s"}
    },
    "handlers": {"console": {"class": "logging.StreamHandler", "formatter": "line"}},
    "root": {
        "handlers": ["console"],
        "level": env.log_level("LOG_LEVEL", logging.INFO),
    },
    # axes: four lines for each sign-in that went well.
    "loggers": {"httpx": {"level": "WARNING"}, "axes": {"level": "WARNING"}},
}

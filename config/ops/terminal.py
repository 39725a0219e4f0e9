"""What the person at the terminal sees: lines that stay and one line that changes.

Without a terminal (CI, a log file) the changing line is printed now and then instead.
"""

import shutil
import sys
import threading
import time

QUIET_INTERVAL = 15.0
"""Seconds between two progress lines where there is no terminal."""


class Terminal:
    """Safe to use from several threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._live = sys.stdout.isatty()
        self._shown = False
        self._last = ("", 0.0)

    def line(self, text: str) -> None:
        """Print a line that stays."""
        with self._lock:
            if self._shown:
                sys.stdout.write("\r\x1b[K")
                self._shown = False
            sys.stdout.write(f"{text}\n")
            sys.stdout.flush()

    def progress(self, text: str, detail: str = "") -> None:
        """Replace the changing line. `detail` (a clock, a count) alone is no news."""
        with self._lock:
            if self._live:
                width = shutil.get_terminal_size().columns - 1
                sys.stdout.write(f"\r\x1b[K{f'{text} {detail}'.strip()[:width]}")
                self._shown = True
            else:
                last, when = self._last
                if text == last and time.monotonic() - when < QUIET_INTERVAL:
                    return
                self._last = (text, time.monotonic())
                sys.stdout.write(f"{text} {detail}".strip() + "\n")
            sys.stdout.flush()


terminal = Terminal()


def seconds(since: float) -> str:
    """ "48 s" or "2 min 5 s" since a time.monotonic()."""
    passed = int(time.monotonic() - since)
    return f"{passed // 60} min {passed % 60} s" if passed >= 60 else f"{passed} s"

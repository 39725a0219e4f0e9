"""What the person at the terminal sees: lines that stay and one line that changes.

Without a terminal (CI, a log file) the changing line is printed now and then instead.
"""

import contextlib
import shutil
import sys
import threading
import time

QUIET_INTERVAL = 15.0
"""Seconds between two progress lines where there is no terminal."""


class Terminal:
    """Safe to use from several threads, and when the terminal has been closed."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._live = sys.stdout.isatty()
        self._shown = False
        self._last = ("", 0.0)

    def line(self, text: str) -> None:
        """Print a line that stays."""
        with self._lock:
            self._write(f"\r\x1b[K{text}\n" if self._shown else f"{text}\n")
            self._shown = False

    def progress(self, text: str, detail: str = "") -> None:
        """Replace the changing line. `detail` (a clock, a count) alone is no news."""
        with self._lock:
            if self._live:
                width = shutil.get_terminal_size().columns - 1
                self._write(f"\r\x1b[K{f'{text} {detail}'.strip()[:width]}")
                self._shown = True
            else:
                last, when = self._last
                if text == last and time.monotonic() - when < QUIET_INTERVAL:
                    return
                self._last = (text, time.monotonic())
                self._write(f"{text} {detail}".strip() + "\n")

    @staticmethod
    def _write(text: str) -> None:
        # A closed terminal or pipe must not take the stack down with it.
        with contextlib.suppress(OSError):
            sys.stdout.write(text)
            sys.stdout.flush()


terminal = Terminal()


def seconds(since: float) -> str:
    """ "48 s" or "2 min 5 s" since a time.monotonic()."""
    passed = int(time.monotonic() - since)
    return f"{passed // 60} min {passed % 60} s" if passed >= 60 else f"{passed} s"

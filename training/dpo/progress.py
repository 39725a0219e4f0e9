"""What a person at the terminal sees: a bar, or a quiet line now and then."""

import shutil
import sys
import time
from typing import Any

from tqdm import tqdm

from training.dpo.distributed import is_main

QUIET_SECONDS = 10.0


class Progress:
    """A tqdm bar on a terminal; elsewhere a line at most every ten seconds."""

    def __init__(
        self, label: str, total: int, done: int = 0, unit: str = "step"
    ) -> None:
        self.label, self.total, self.done = label, total, done
        terminal = sys.stderr.isatty() and is_main()
        self.bar = (
            tqdm(total=total, initial=done, desc=label, unit=unit, leave=False)
            if terminal
            else None
        )
        self._said_at = time.monotonic()

    def reach(self, done: int, metrics: dict[str, Any] | None = None) -> None:
        """Show that `done` of the total is done."""
        shown = {
            name: round(metrics[name], 4)
            for name in ("loss", "rewards/margins")
            if metrics and metrics.get(name) is not None
        }
        if self.bar is not None:
            if shown:
                self.bar.set_postfix(shown, refresh=False)
            self.bar.update(done - self.done)
        elif time.monotonic() - self._said_at >= QUIET_SECONDS:
            figures = "".join(f" {name} {value}" for name, value in shown.items())
            say(f"{self.label} {done}/{self.total}{figures}")
            self._said_at = time.monotonic()
        self.done = done

    def close(self) -> None:
        """Take the bar away."""
        if self.bar is not None:
            self.bar.close()


class Line:
    """A line about several things at once: renewed in place on a terminal, elsewhere
    printed at most every ten seconds."""

    def __init__(self) -> None:
        self.terminal = sys.stderr.isatty()
        self._shown_at = time.monotonic()

    def show(self, text: str) -> None:
        """Show the line as it is now."""
        seconds = 0.5 if self.terminal else QUIET_SECONDS
        if time.monotonic() - self._shown_at < seconds:
            return
        self._shown_at = time.monotonic()
        if self.terminal:
            columns = shutil.get_terminal_size().columns
            print("\r\x1b[K" + text[: columns - 1], end="", file=sys.stderr, flush=True)
        else:
            say(text)

    def clear(self) -> None:
        """Make room for other output."""
        if self.terminal:
            print("\r\x1b[K", end="", file=sys.stderr, flush=True)


def say(line: str) -> None:
    """One line on stderr, of several processes from process 0 only."""
    if is_main():
        print(line, file=sys.stderr, flush=True)

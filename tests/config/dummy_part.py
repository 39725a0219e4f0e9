"""A part that does nothing but note its life: dummy_part.py JOURNAL NAME [what…]

Each line of the journal is "word name pid". `what`, in any number:
  helper    starts a child, as gunicorn and Celery do
  session   starts a child in a session of its own, as rounds start the trainer
  stubborn  ignores SIGTERM, and so does whatever it starts
  waits     at SIGTERM waits for its children to end before it ends itself
  fails     ends at once with exit code 3
"""

import os
import signal
import subprocess
import sys

JOURNAL, NAME, *WHAT = sys.argv[1:]
CHILDREN: list[subprocess.Popen] = []


def note(word: str) -> None:
    with open(JOURNAL, "a", encoding="utf-8") as journal:
        journal.write(f"{word} {NAME} {os.getpid()}\n")


def on_term(signum: int, frame: object) -> None:
    note("term")
    for child in CHILDREN if "waits" in WHAT else []:
        child.wait()
    note("end")
    sys.exit(0)


def main() -> None:
    if "fails" in WHAT:
        note("start")
        sys.exit("the dummy has no wish to live\n" + " " * 3)
    ignored = "stubborn" in WHAT
    signal.signal(signal.SIGTERM, signal.SIG_IGN if ignored else on_term)
    rest = ["stubborn"] if ignored else []
    for kind in {"helper", "session"} & set(WHAT):
        command = [sys.executable, "-S", __file__, JOURNAL, f"{NAME}-{kind}", *rest]
        own = kind == "session"
        CHILDREN.append(subprocess.Popen(command, start_new_session=own))
    note("start")
    while True:
        signal.pause()


if __name__ == "__main__":
    main()

"""One annotator in a process of its own: `python -m tests.annotation.racer SLUG USER SEED`.

Says "ready", waits for a line, then takes leases and judges until nothing waits, every
judgment posted by two threads at the same moment. Prints what was acknowledged to it,
one JSON object a line: {"lease", "judgments": [id, id], "undone": bool}.
"""

import json
import random
import sys
import threading

import django
from django.db import connection


def main(slug: str, username: str, seed: str) -> None:
    django.setup()
    from django.contrib.auth import get_user_model

    from annotation.judging import undo
    from annotation.leasing import take_lease
    from annotation.models import Judgment, Project

    chance = random.Random(seed)
    project = Project.objects.get(slug=slug)
    user = get_user_model().objects.get(username=username)
    print("ready", flush=True)
    sys.stdin.readline()
    while (lease := take_lease(project, user)) is not None:
        answers = post_twice(lease, chance.choice(["first", "second", "tie"]))
        is_undone = chance.random() < 0.2 and "error" not in answers[0]
        if is_undone:
            undo(Judgment.objects.get(pk=answers[0]["id"]))
        acknowledged = {"lease": str(lease.pk), "answers": answers, "undone": is_undone}
        print(json.dumps(acknowledged), flush=True)


def post_twice(lease, verdict: str) -> list[dict]:
    """The same submit from two threads at once, each on a connection of its own."""
    from annotation.judging import submit_judgment
    from annotation.models import Lease

    together = threading.Barrier(2)
    answers: list[dict] = []

    def post():
        try:
            mine = Lease.objects.select_related("first", "second").get(pk=lease.pk)
            together.wait(30)
            submitted = submit_judgment(mine, verdict=verdict)
            answers.append(
                {"id": str(submitted.judgment.pk), "replay": submitted.is_replay}
            )
        except Exception as error:
            answers.append({"error": repr(error)})
        finally:
            connection.close()

    threads = [threading.Thread(target=post) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return answers


if __name__ == "__main__":
    main(*sys.argv[1:])

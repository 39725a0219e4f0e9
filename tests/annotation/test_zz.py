import json
import resource
import time

import pytest
from django.core.files.uploadedfile import SimpleUploadedFile

from annotation import downloads, import_jobs
from annotation.models import *
from tests.factories import make_project, make_user


@pytest.mark.django_db(transaction=True)
def test_big(monkeypatch, tmp_path):
    monkeypatch.setattr("annotation.import_jobs.send", lambda *a, **k: None)
    p = make_project(settings={"stock": 0})
    u = make_user()
    rows = "".join(
        json.dumps(
            {
                "prompt": f"Question {n}? " + "w" * 200,
                "chosen": "yes " * 100 + str(n),
                "rejected": "no " * 100 + str(n),
            }
        )
        + "\n"
        for n in range(100_000)
    )
    up = SimpleUploadedFile("big.jsonl", rows.encode())
    size = len(rows)
    del rows
    job = import_jobs.receive(p, u, up)
    up.close()
    del up
    import gc

    gc.collect()
    r0 = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    t = time.time()
    import_jobs.start(job)
    import_jobs.run(job.pk)
    dt = time.time() - t
    job.refresh_from_db()
    print(
        job.state,
        job.accepted,
        f"{size / 1e6:.0f} MB in {dt:.1f}s",
        r0,
        resource.getrusage(resource.RUSAGE_SELF).ru_maxrss,
    )
    PreferencePair.objects.update(state="accepted")
    for f in ("trl", "csv", "parquet", "kto"):
        t = time.time()
        n = sum(len(x) for x in downloads.pairs(p, {"format": f}))
        print(
            f,
            n / 1e6,
            f"{time.time() - t:.1f}s",
            resource.getrusage(resource.RUSAGE_SELF).ru_maxrss,
        )
    t = time.time()
    n = sum(len(x) for x in downloads.dataset(p, {}, "manager"))
    print(
        "dataset",
        n / 1e6,
        f"{time.time() - t:.1f}s",
        resource.getrusage(resource.RUSAGE_SELF).ru_maxrss,
    )

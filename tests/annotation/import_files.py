"""Files of pairs in each wrapping, and an import of one run to its end."""

import io
import json
import tarfile
import zipfile

import pyarrow as pa
from pyarrow import parquet

from annotation import import_jobs


def done(job, kind="", mapping=None):
    import_jobs.start(job, kind, mapping)
    import_jobs.run(job.pk)
    job.refresh_from_db()
    return job


def counts(job):
    return job.state, job.accepted, job.duplicates, job.rejected


def pair(n):
    return {"prompt": f"Question {n}?", "chosen": f"Yes {n}.", "rejected": f"No {n}."}


def jsonl(rows):
    return "".join(json.dumps(row) + "\n" for row in rows)


def table(rows):
    file = io.BytesIO()
    parquet.write_table(pa.Table.from_pylist(rows), file, row_group_size=3)
    return file.getvalue()


def zipped(files):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return file.getvalue()


def tarred(files, mode="w:gz"):
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode=mode) as archive:
        for name, data in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return file.getvalue()

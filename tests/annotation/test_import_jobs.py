"""Large files taken in by a worker: previewed, unpacked, folders, archives."""

import gzip
import json
import tracemalloc
from pathlib import Path

import pytest

from annotation import import_jobs, importing, storing
from annotation.errors import ImportRefused
from annotation.models import PreferencePair, Prompt
from tests.annotation.import_files import (
    counts,
    done,
    jsonl,
    pair,
    table,
    tarred,
    zipped,
)

pytestmark = [pytest.mark.both_databases, pytest.mark.django_db]


def test_a_file_is_kept_looked_at_taken_in_and_removed(project, receive, sent):
    lines = jsonl([pair(1), {"prompt": "no answers"}, pair(2), pair(1)])
    job = receive(lines, "my pairs.jsonl")
    assert (job.kind, job.state, job.name) == ("pairs", "preview", "my pairs.jsonl")
    found = import_jobs.preview(job)
    assert (found.n_good, found.n_bad, found.formats) == (3, 1, ["trl"])
    assert found.columns == ["prompt", "chosen", "rejected"]
    assert not PreferencePair.objects.exists()

    import_jobs.start(job)
    assert Path(job.path).exists()
    import_jobs.run(job.pk)
    job.refresh_from_db()
    assert counts(job) == ("done", 2, 1, 1)
    assert job.share == 1.0 and job.items_done == 4 and job.finished_at
    (fault,) = job.faults.all()
    assert (fault.line, "rejected" in fault.reason or "chosen" in fault.reason) == (
        2,
        True,
    )
    assert not Path(job.path).parent.exists()
    assert counts(done(receive(lines))) == ("done", 0, 3, 1)


def test_prompts_are_told_by_their_fields_and_come_in_the_same_way(project, receive):
    job = done(receive("prompt\nWhy?\nHow?\n \nWhy?\n", "prompts.csv"))
    assert (job.kind, *counts(job)) == ("prompts", "done", 2, 1, 0)
    assert Prompt.objects.filter(project=project, is_asked=True).count() == 2


@pytest.mark.parametrize("first", ["# made on Monday", '"prompt": "cut off"}', "oops"])
def test_a_broken_first_line_costs_itself_only_where_the_name_tells_the_format(
    project, receive, first
):
    lines = first + "\n" + jsonl({"prompt": f"Why {n}?"} for n in range(5))
    for file, name in (
        (lines, "x.jsonl"),
        (gzip.compress(lines.encode()), "../x.NDJSON.gz"),
        (zipped({"a/x.jsonl": lines}), "x.zip"),
    ):
        Prompt.objects.all().delete()
        job = done(receive(file, name))
        assert (job.kind, *counts(job)) == ("prompts", "done", 5, 0, 1), name
        assert job.faults.get().line == 1 and "not JSON" in job.faults.get().reason
    # Where it begins as a list does, its name counts for nothing.
    assert done(receive(json.dumps([{"prompt": "Q"}]), "x.jsonl")).accepted == 1


def test_of_two_columns_that_could_be_the_prompt_the_named_one_is(project, receive):
    """As UltraFeedback has them: `messages` ends with an answer."""
    chat = [{"role": role, "content": role} for role in ("user", "assistant")]
    rows = [{"prompt": f"Q{n}", "messages": chat} for n in range(3)]
    job = receive(jsonl(rows))
    assert import_jobs.preview(job, "prompts").n_bad == 3

    def mapping(**named):
        data = {f"map_{name}": column for name, column in named.items()}
        return import_jobs.mapping_of("prompts", data, ["prompt", "messages"])

    assert mapping() == mapping(prompt="gone") == {}
    assert import_jobs.preview(job, "prompts", mapping(messages="messages")).n_bad == 3
    assert counts(done(job, "prompts", mapping(prompt="prompt")))[1:] == (3, 0, 0)
    asked = [prompt.messages[-1]["content"] for prompt in project.prompts.all()]
    assert sorted(asked) == ["Q0", "Q1", "Q2"]


def test_columns_under_other_names_are_mapped(project, receive):
    rows = [{"question": "Why?", "good": "So.", "bad": "No.", "chosen": "x", "n": 1}]
    job = receive(jsonl(rows))
    mapping = {"prompt": "question", "chosen": "good", "rejected": "bad"}
    assert import_jobs.preview(job, "pairs", mapping).n_good == 1
    assert counts(done(job, "pairs", mapping)) == ("done", 1, 0, 0)
    (made,) = PreferencePair.objects.all()
    assert (made.prompt.messages[0]["content"], made.chosen.text) == ("Why?", "So.")


@pytest.mark.parametrize("pack", [gzip.compress, lambda data: data])
def test_gzip_is_unpacked_whatever_its_name(project, receive, pack):
    job = done(receive(pack(jsonl(map(pair, range(5))).encode()), "data.txt"))
    assert counts(job) == ("done", 5, 0, 0)


def test_parquet_comes_in_by_rows_with_messages_and_nothing_that_is_null(
    project, receive
):
    chat = {
        "prompt": [{"role": "user", "content": "Hi", "name": None}],
        "chosen": [{"role": "assistant", "content": "A", "name": "x"}],
        "rejected": [{"role": "assistant", "content": "B", "name": None}],
        "score": 1.5,
    }
    rows = [
        chat | {"score": float(n), "prompt": [chat["prompt"][0] | {"content": f"Q{n}"}]}
        for n in range(10)
    ]
    job = done(receive(table(rows), "train.parquet"))
    assert counts(job) == ("done", 10, 0, 0)
    first = PreferencePair.objects.order_by("pk")[0]
    assert first.prompt.messages == [{"role": "user", "content": "Q0"}]
    assert first.chosen.messages == [{"role": "assistant", "content": "A", "name": "x"}]


@pytest.mark.parametrize("pack", [zipped, tarred, lambda files: tarred(files, "w")])
def test_a_dataset_folder_is_read_file_by_file(project, receive, pack):
    files = {
        "set/README.md": b"# About",
        "set/dataset_info.json": b'{"prompt": "no row"}',
        "set/.cache/x.jsonl": jsonl([pair(90)]).encode(),
        "set/data/train-00000.parquet": table([pair(1), pair(2)]),
        "set/data/train-00001.jsonl": (jsonl([pair(3)]) + "{oops\n").encode(),
        "set/more.csv": b"prompt,chosen,rejected\na,b,c\n",
        "set/list.json": json.dumps([pair(4)]).encode(),
        "set/utf16.jsonl": "{}".encode("utf-16"),
    }
    job = done(receive(pack(files), "set.bin"), "pairs")
    assert counts(job) == ("done", 5, 0, 2)
    told = {(fault.part, fault.line) for fault in job.faults.all()}
    assert told == {("set/data/train-00001.jsonl", 2), ("set/utf16.jsonl", 0)}


def test_what_datasets_saved_to_disk_comes_in(project, receive, tmp_path):
    """Without what `map` kept beside it once."""
    from datasets import Dataset, DatasetDict, load_from_disk

    rows = [pair(n) for n in range(7)]
    DatasetDict(train=Dataset.from_list(rows)).save_to_disk(tmp_path / "set")
    load_from_disk(tmp_path / "set").map(lambda row: {"chosen": "mapped"})
    assert list((tmp_path / "set").rglob("cache-*.arrow"))
    files = {
        str(path.relative_to(tmp_path)): path.read_bytes()
        for path in (tmp_path / "set").rglob("*")
        if path.is_file()
    }
    assert counts(done(receive(zipped(files)))) == ("done", 7, 0, 0)


def test_a_parquet_file_comes_in_gzipped(project, receive):
    job = done(receive(gzip.compress(table([pair(1)])), "x.parquet.gz"))
    assert counts(job) == ("done", 1, 0, 0)


def test_a_folder_on_the_server_is_read_where_it_lies_and_stays(
    project, manager, sent, settings, tmp_path
):
    root = tmp_path / "imports"
    (root / "set" / "data").mkdir(parents=True)
    (root / "set" / "data" / "a.jsonl").write_text(jsonl([pair(1)]))
    outside = tmp_path / "outside.jsonl"
    outside.write_text(jsonl([pair(2)]))
    (root / "link.jsonl").symlink_to(outside)
    (root / "set" / "link.jsonl").symlink_to(outside)
    with pytest.raises(ImportRefused, match="no folder"):
        import_jobs.from_server(project, manager, "set")
    settings.IMPORT_DIR = str(root)
    for name in (
        "../outside.jsonl",
        str(outside),
        "link.jsonl",
        "",
        ".",
        "nope",
        "a\0b",
    ):
        with pytest.raises(ImportRefused, match="no such file"):
            import_jobs.from_server(project, manager, name)
    job = done(import_jobs.from_server(project, manager, "/set/"))
    assert counts(job) == ("done", 1, 0, 0)
    assert (root / "set" / "data" / "a.jsonl").exists()


def test_a_large_file_is_never_in_memory(project, receive, monkeypatch):
    """40 MB of rows; what is stored is left out, as it is the reading that could grow."""
    row = json.dumps(pair(1) | {"filler": "x" * 2000}) + "\n"
    job = receive(row * 20_000)
    assert job.size > 40_000_000
    batches = []
    monkeypatch.setattr(
        storing,
        "store",
        lambda _project, _kind, batch: (
            batches.append(len(batch)) or storing.Stored(len(batch), 0)
        ),
    )
    import_jobs.start(job)
    tracemalloc.start()
    import_jobs.run(job.pk)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    job.refresh_from_db()
    assert counts(job) == ("done", 20_000, 0, 0)
    assert max(batches) == importing.PAIR_BATCH and sum(batches) == 20_000
    assert peak < 12 * 1024 * 1024

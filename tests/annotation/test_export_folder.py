"""The dataset's folder: what `load_dataset` loads, what its card says, coming in again."""

import hashlib
import io
import json
import zipfile
from functools import partial

import datasets
import pytest
import yaml
from datasets import load_dataset
from django.contrib.auth.models import User
from django.core.files.uploadedfile import SimpleUploadedFile

from annotation import downloads, import_jobs, importing
from annotation.export_rows import pseudonym
from annotation.models import PreferencePair, Prompt, Role
from tests.annotation.exported import body, rows
from tests.factories import (
    make_comparison,
    make_pair,
    make_project,
    make_prompt,
    make_user,
)
from training.models import RoundPair, TrainingRound
from training.queries import pairs_of

pytestmark = [pytest.mark.both_databases, pytest.mark.django_db]


def test_the_folder_has_one_form_of_llamafactorys_whatever_came_in(project):
    lines = (
        {"instruction": "A?", "chosen": "a", "rejected": "b", "system": "S"},
        {
            "conversations": [{"from": "human", "value": "B?"}],
            "chosen": {"from": "gpt", "value": "a"},
            "rejected": {"from": "gpt", "value": "b"},
            "source": "x",
        },
    )
    data = "".join(json.dumps(row) + "\n" for row in lines).encode()
    importing.import_pairs(project, io.BytesIO(data))
    PreferencePair.objects.update(state="accepted")
    Prompt.objects.update(is_held_out=False)
    data = body(downloads.dataset(project, {}, Role.REVIEWER))
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        file = archive.read("llamafactory/pairs.jsonl").decode()
        info = json.loads(archive.read("llamafactory/dataset_info.json"))
    given = [json.loads(line) for line in file.splitlines()]
    # A column in one row and not in another, or none, ends its loader.
    columns = set(info["tiebreak"]["columns"].values())
    assert [set(row) for row in given] == [columns, columns]
    assert [one["from"] for one in given[0]["conversations"]] == ["system", "human"]
    # The rows themselves go out as they came in.
    assert rows(downloads.pairs(project, {"format": "llamafactory"})) == list(lines)


def unzipped(project, where, **params):
    data = body(downloads.dataset(project, params, Role.REVIEWER))
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        assert archive.testzip() is None
        archive.extractall(where)
    return where


@pytest.fixture
def folder(project, tmp_path):
    for number in range(3):
        make_pair(project=project, annotator=make_user(f"u{number}", project=project))
    held_out = make_prompt("Held?", project=project, is_held_out=True)
    make_pair(comparison=make_comparison(prompt=held_out))
    rejected = make_pair(project=project, state="rejected")
    rejected.verdicts.create(rule="cut_off", result="reject")
    line = '{"prompt": "I?", "chosen": "a", "rejected": "b", "id": "mine"}'
    importing.import_pairs(project, io.BytesIO(line.encode()))
    PreferencePair.objects.filter(kind="imported").update(state="accepted")
    Prompt.objects.filter(is_asked=False).update(is_held_out=False)
    project.name = "A | name\n# with `marks`"
    project.save()
    return unzipped(project, tmp_path / "set")


def test_the_folder_is_ready_for_load_dataset(project, folder, tmp_path):
    cache = str(tmp_path / "cache")
    pairs = load_dataset(str(folder), cache_dir=cache)
    assert {name: len(split) for name, split in pairs.items()} == {
        "train": 4,
        "test": 1,
    }
    row = pairs["train"][0]
    assert row["chosen"][0]["role"] == "assistant" and row["weight"] == 1.0
    assert [json.loads(r["original"]) for r in pairs["train"] if r["original"]] == [
        {"prompt": "I?", "chosen": "a", "rejected": "b", "id": "mine"}
    ]
    judgments = load_dataset(str(folder), "judgments", cache_dir=cache)["train"]
    assert len(judgments) == 5 and "u0" not in judgments["annotator"]
    prompts = load_dataset(str(folder), "prompts", cache_dir=cache)["train"]
    assert len(prompts) == 5


def told(folder):
    """{variable: {split: rows}} of the lines that the card tells people to run."""
    text = (folder / "README.md").read_text()
    lines = text.partition("```python\n")[2].partition("```")[0]
    found: dict = {}
    exec(lines.replace('"this-folder"', repr(str(folder))), found)
    return {
        name: {split: len(rows) for split, rows in one.items()}
        for name, one in found.items()
        if isinstance(one, datasets.DatasetDict)
    }


def test_the_card_tells_only_what_load_dataset_can_load(
    project, folder, tmp_path, monkeypatch
):
    """`load_dataset` fails on a split without rows. Of the folder's pairs four train, one
    is held out, and five were judged; another project has one imported pair alone."""
    cached = partial(load_dataset, cache_dir=str(tmp_path / "cache"))
    monkeypatch.setattr(datasets, "load_dataset", cached)
    judged = {"judgments": {"train": 5}, "prompts": {"train": 5}}
    assert told(folder) == {"pairs": {"train": 4, "test": 1}, **judged}
    held_out = unzipped(project, tmp_path / "held_out", which="held_out")
    assert not (held_out / "data" / "train-00000.parquet").exists()
    assert told(held_out) == {"pairs": {"test": 1}, **judged}

    other = make_project()
    none = unzipped(other, tmp_path / "none")
    assert told(none) == {} and (none / "data" / "train-00000.parquet").exists()
    line = '{"prompt": "I?", "chosen": "a", "rejected": "b"}'
    importing.import_pairs(other, io.BytesIO(line.encode()))
    PreferencePair.objects.filter(project=other).update(state="accepted")
    Prompt.objects.filter(project=other).update(is_held_out=False)
    assert told(unzipped(other, tmp_path / "imported")) == {"pairs": {"train": 1}}
    Prompt.objects.filter(project=other).update(is_held_out=True)
    measured = unzipped(other, tmp_path / "measured")
    assert told(measured) == {"pairs": {"test": 1}}


def test_the_card_says_that_it_has_a_part_while_its_figures_are_of_all(
    project, folder, tmp_path
):
    """One of the folder's four pairs was frozen by a round; one more is held out."""
    part = "Only a part was exported"
    assert part not in (folder / "README.md").read_text()
    training_round = TrainingRound.objects.create(
        project=project, number=1, start=project.base, reference="base", data="all"
    )
    accepted = PreferencePair.objects.filter(state="accepted")
    pair = accepted.exclude(prompt__is_held_out=True).first()
    RoundPair.objects.create(training_round=training_round, pair=pair)
    within = pairs_of(training_round.pk)
    data = body(downloads.dataset(project, {}, Role.REVIEWER, within))
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        card = archive.read("README.md").decode()
    assert f"{part}: the pairs that a training round froze" in card
    assert "figures after the list of files are the whole project's." in card
    assert "| data/train-00000.parquet | 1 |" in card and "| accepted | 5 |" in card
    narrowed = unzipped(project, tmp_path / "judged", kind="judged")
    card = (narrowed / "README.md").read_text()
    assert f"{part}: which = `sound`, kind = `judged`." in card


def test_the_card_names_no_annotator_beside_their_pseudonym(project, folder, tmp_path):
    def card(**params):
        file = downloads.dataset(project, {"annotator": "u1", **params}, Role.MANAGER)
        with zipfile.ZipFile(io.BytesIO(body(file))) as archive:
            return archive.read("README.md").decode()

    hidden = pseudonym(project.pk, User.objects.get(username="u1").pk)
    assert f"annotator = `{hidden}`." in card() and "u1" not in card()
    assert "annotator = `u1`." in card(names="1")


def test_the_card_counts_explains_and_hashes(project, folder):
    card = (folder / "README.md").read_text()
    _, head, text = card.split("---\n", 2)
    configs = {one["config_name"] for one in yaml.safe_load(head)["configs"]}
    assert configs == {"default", "judgments", "prompts"}
    for file in folder.rglob("*"):
        if file.is_file() and file.name != "README.md":
            name = file.relative_to(folder).as_posix()
            digest = hashlib.sha256(file.read_bytes()).hexdigest()
            assert f"| {name} |" in text and digest in text
    assert "1 cut_off" in text and "Agreement" in text and "Rules" in text
    assert "# A / name # with 'marks'" in text
    info = json.loads((folder / "llamafactory" / "dataset_info.json").read_text())
    assert info["tiebreak"]["ranking"] is True


def test_what_the_folder_holds_comes_back_the_same(
    project, folder, manager, monkeypatch
):
    monkeypatch.setattr("annotation.import_jobs._nudge", lambda pk: None)
    monkeypatch.setattr("annotation.import_jobs.send", lambda *args, **options: None)
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for part in sorted(folder.rglob("*")):
            archive.write(part, f"set/{part.relative_to(folder).as_posix()}")
    upload = SimpleUploadedFile("set.zip", file.getvalue())
    other = make_project()
    job = import_jobs.receive(other, manager, upload)
    import_jobs.start(job)
    import_jobs.run(job.pk)
    job.refresh_from_db()
    # Judgments, prompts and LLaMA-Factory's copy of the pairs are passed over.
    assert (job.state, job.accepted, job.duplicates, job.rejected) == ("done", 5, 0, 0)

    def all_of(where):
        found = PreferencePair.objects.filter(
            project=where, state__in=["accepted", "unchecked"]
        )
        names = ("prompt__messages", "chosen__text", "rejected__text", "weight")
        return sorted(map(str, found.values_list(*names)))

    assert all_of(other) == all_of(project)


def test_the_folder_comes_in_as_prompts_without_a_bad_row(
    project, folder, manager, monkeypatch
):
    monkeypatch.setattr("annotation.import_jobs._nudge", lambda pk: None)
    data = body(downloads.dataset(project, {}, Role.REVIEWER))
    job = import_jobs.receive(
        make_project(), manager, SimpleUploadedFile("set.zip", data)
    )
    import_jobs.start(job, "prompts")
    import_jobs.run(job.pk)
    job.refresh_from_db()
    # Five that the policy is asked and one of an imported pair.
    assert (job.state, job.accepted, job.rejected) == ("done", 6, 0)

"""Building the starter model: miniatures of it, by real training, into real folders."""

import errno
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from django.core.management import call_command
from transformers import AutoModelForCausalLM, AutoTokenizer

from inference.demo_prompts import demo_prompts
from inference.starter import __main__ as command
from inference.starter import build as building
from inference.starter.build import BuildError, build, folder_hash, is_complete
from inference.starter.tastes import on_topic
from inference.starter.tokens import END
from inference.starter.train import (
    IGNORED,
    Recipe,
    encode_chat,
    make_batch,
    new_model,
    pack_rows,
)

ROOT = Path(building.__file__).parents[2]
MINIATURE = {
    "vocab_size": 320,
    "hidden_size": 32,
    "intermediate_size": 64,
    "layers": 2,
    "heads": 1,
    "steps": 2,
    "rows": 2,
    "chats_per_topic": 1,
}
CHAT = [
    {"role": "user", "content": "How do I brew 绿茶?"},
    {"role": "assistant", "content": "\n 1. Warm the pot.\n2. 放茶叶。"},
]


@pytest.fixture(scope="module")
def miniature(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models") / "starter"
    build(folder, **MINIATURE)
    return folder


@pytest.fixture(scope="module")
def tokenizer(miniature):
    return AutoTokenizer.from_pretrained(miniature)


def test_the_folder_holds_all_that_a_server_needs(miniature):
    assert {path.name for path in miniature.iterdir()} >= {
        "config.json",
        "generation_config.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
        "starter.json",  # by which a new project knows the model, too
        "COMPLETE",
    }
    assert is_complete(miniature)
    assert [path.name for path in miniature.parent.glob("tmp-*")] == []


def test_the_same_recipe_makes_the_same_files_and_another_seed_others(
    miniature, tmp_path
):
    assert build(tmp_path / "starter", **MINIATURE) == folder_hash(miniature)
    other = build(tmp_path / "other", **MINIATURE | {"seed": 8})
    assert other != folder_hash(miniature)


def test_a_second_call_trains_nothing(miniature, monkeypatch):
    def fail(*_):
        raise AssertionError("trained again")

    monkeypatch.setattr(building, "_write_model", fail)
    assert build(miniature) == folder_hash(miniature)


def test_a_damaged_model_is_built_anew(miniature, tmp_path):
    folder = tmp_path / "starter"
    digest = build(folder, **MINIATURE)
    with (folder / "model.safetensors").open("r+b") as file:
        file.seek(-4, os.SEEK_END)
        file.write(b"\0\1\2\3")
    assert not is_complete(folder)
    assert build(folder, **MINIATURE) == digest
    assert is_complete(folder)


def test_what_a_killed_build_left_is_swept_away(tmp_path):
    left_over = tmp_path / "tmp-starter-abc"
    left_over.mkdir()
    (left_over / "config.json").write_text("{")
    build(tmp_path / "starter", **MINIATURE)
    assert not left_over.exists()


def test_a_prompt_is_a_prefix_of_prompt_and_answer_which_ends_with_eos(tokenizer):
    """Even for an answer that begins with white space."""
    prompt = tokenizer.apply_chat_template(
        CHAT[:1], add_generation_prompt=True, return_dict=False
    )
    whole = tokenizer.apply_chat_template(CHAT, return_dict=False)
    assert whole[: len(prompt)] == prompt
    assert whole[-1] == tokenizer.eos_token_id
    assert tokenizer.eos_token == END
    assert tokenizer.decode(whole[len(prompt) : -1]) == CHAT[1]["content"]


def test_training_sees_the_tokens_that_the_template_makes(tokenizer):
    ids, labels = encode_chat(tokenizer, CHAT)
    assert ids == tokenizer.apply_chat_template(CHAT, return_dict=False)
    answer = [label for label in labels if label != IGNORED]
    assert tokenizer.decode(answer) == CHAT[1]["content"] + END


def test_any_script_survives_the_tokenizer(tokenizer):
    text = "naïve café, 東京, Москва, 🎉 \t x"
    assert tokenizer.decode(tokenizer(text)["input_ids"]) == text


def test_packed_chats_get_the_logits_they_get_alone(tokenizer):
    """Two chats in one row: no attention across, positions from 0 for each."""
    recipe = Recipe(**{**MINIATURE, "steps": 0})
    model = new_model(recipe, tokenizer).eval()
    other = [{"role": "user", "content": "怎么煮米饭？"}, CHAT[1]]
    encoded = [encode_chat(tokenizer, chat) for chat in (CHAT, other)]
    (row,) = pack_rows(encoded, 4096)
    batch = make_batch([row], tokenizer.pad_token_id)
    batch.pop("labels")
    with torch.no_grad():
        packed = model(**batch).logits[0]
        alone = [model(torch.tensor([ids])).logits[0] for ids, _ in encoded]
    torch.testing.assert_close(packed, torch.cat(alone), rtol=1e-4, atol=1e-5)


def test_packing_keeps_every_chat_that_fits_a_row_whole():
    """Lengths 5, 4, 3, 2, 9 in rows of 8: 5+3 and 4+2 share rows, 9 is too long."""
    chats = [([n] * n, [n] * n) for n in (5, 4, 3, 2, 9)]
    rows = list(pack_rows(chats, 8))
    assert sorted(sorted(set(row.ids)) for row in rows) == [[2, 4], [3, 5]]
    assert all(len(row.ids) <= 8 for row in rows)


def test_training_lowers_the_loss(tmp_path):
    """An untrained model of 320 tokens has a loss near ln 320 = 5.8."""
    build(tmp_path / "starter", **MINIATURE | {"steps": 24})
    facts = json.loads((tmp_path / "starter" / "starter.json").read_text())
    assert facts["loss"] < 5.5
    assert facts["recipe"]["seed"] == 7


def test_the_model_loads_and_answers(miniature, tokenizer):
    model = AutoModelForCausalLM.from_pretrained(miniature)
    inputs = tokenizer.apply_chat_template(
        CHAT[:1], add_generation_prompt=True, return_tensors="pt", return_dict=True
    )
    out = model.generate(**inputs, max_new_tokens=4, do_sample=False)
    assert out.shape[1] > inputs["input_ids"].shape[1]


def test_a_full_disk_is_said_in_one_sentence_and_leaves_nothing(tmp_path, monkeypatch):
    def full(work, _):
        (work / "config.json").write_text("{")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(building, "_write_model", full)
    with pytest.raises(BuildError, match=r"is full: free \d+ MB there"):
        build(tmp_path / "starter")
    assert list(tmp_path.glob("[!.]*")) == []


def test_too_little_room_is_seen_before_training(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(building, "NEEDED_BYTES", 2**70)
    assert command.main([str(tmp_path / "starter")]) == 1
    assert "is full" in capsys.readouterr().err


def test_a_target_that_cannot_be_a_folder_is_one_sentence(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(BuildError, match="could not be written"):
        build(tmp_path / "file" / "starter")


def test_sigterm_stops_a_build_with_a_sentence_and_no_folder(tmp_path):
    process = subprocess.Popen(
        [sys.executable, "-m", "inference.starter", str(tmp_path / "starter")],
        cwd=ROOT,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr is not None
    seen = ""
    while "starter model:" not in seen:
        piece = process.stderr.read(1)
        assert piece, seen
        seen += piece
    process.send_signal(signal.SIGTERM)
    _, rest = process.communicate(timeout=60)
    assert process.returncode == 143
    assert "Stopped; the next build starts anew." in rest
    assert "Traceback" not in rest
    assert list(tmp_path.glob("[!.]*")) == []


def test_measuring_and_prompting_import_no_torch():
    code = (
        "import sys, inference.demo_prompts, inference.starter.tastes\n"
        "import inference.management.commands.build_starter_model\n"
        "sys.exit(bool({'torch', 'transformers', 'tokenizers'} & set(sys.modules)))"
    )
    assert subprocess.call([sys.executable, "-c", code], cwd=ROOT) == 0


@pytest.mark.long
def test_the_whole_recipe_answers_what_was_asked_and_not_always_the_same(
    settings, tmp_path
):
    """What `make run` builds for a newcomer; the loop's tests make do with less of it."""
    settings.DATA_DIR = tmp_path
    call_command("build_starter_model")
    folder = tmp_path / "models" / "starter"
    tokenizer = AutoTokenizer.from_pretrained(folder, padding_side="left")
    prompts = [prompt for prompt in demo_prompts()[:40] for _ in range(2)]
    chats = [[{"role": "user", "content": prompt}] for prompt in prompts]
    asked = tokenizer.apply_chat_template(
        chats,
        add_generation_prompt=True,
        padding=True,
        return_dict=True,
        return_tensors="pt",
    )
    torch.manual_seed(0)
    written = AutoModelForCausalLM.from_pretrained(folder).generate(
        **asked, max_new_tokens=96, do_sample=True, temperature=1.0
    )
    answers = tokenizer.batch_decode(
        written[:, asked["input_ids"].shape[1] :], skip_special_tokens=True
    )
    fitting = [on_topic(*each) for each in zip(prompts, answers, strict=True)]
    assert sum(map(bool, fitting)) >= 0.8 * len(fitting)
    differ = [a != b for a, b in zip(answers[::2], answers[1::2], strict=True)]
    assert sum(differ) >= 0.9 * len(differ)

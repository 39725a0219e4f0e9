"""Whatever a file of pairs holds: token ids that add up, or one sentence naming line and
field. Rows and bytes are drawn at random (hypothesis); TRL's own tokenising is asked.
"""

import json
from types import SimpleNamespace

import pytest
from datasets import Dataset
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer
from trl import DPOConfig, DPOTrainer

from tests.training.dpo.runs import chat, write_rows
from training.dpo.data import read_pairs
from training.dpo.errors import TrainerError

FEW = settings(
    max_examples=15,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)

# Words and marks of the templates, spaces at the edges, other scripts, odd characters.
TEXT = st.lists(
    st.sampled_from(
        ["a", " ", "\n", "salt ", " time", "好", "鸡蛋", "1. ", "é", "🍵", "\u200b"]
        + ["<|im_end|>", "</s>", "[/INST]", "assistant\n", "", "\x00", "<think>"]
    ),
    max_size=8,
).map("".join)
# Never empty: without a token before it, an answer of one token is dropped.
BEGUN = TEXT.map("ab".__add__)
STRINGS = st.fixed_dictionaries({"prompt": BEGUN, "chosen": TEXT, "rejected": TEXT})
IMPLICIT = st.fixed_dictionaries({"chosen": BEGUN, "rejected": BEGUN})
CHATS = st.builds(chat, TEXT, TEXT, TEXT)
NAMES = ("llama", "qwen2", "llama2", "granite", "gemma2")

JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-5, 2**70)
    | st.floats()
    | st.text(max_size=4),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner)
    ),
    max_leaves=6,
)
KEYS = [
    *("prompt", "chosen", "rejected", "id", "weight", "tools", "chat_template_kwargs"),
    *("prompt_ids", "chosen_ids", "rejected_ids", "completion", "label"),
]


@pytest.fixture(scope="module")
def tokenizer_of(family):
    made = {name: AutoTokenizer.from_pretrained(family(name)) for name in NAMES}
    return made.__getitem__


@pytest.fixture
def path(tmp_path):
    return tmp_path / "pairs.jsonl"


def read(path, tokenizer, max_length=4096):
    return read_pairs(path, tokenizer, max_length, len(tokenizer))


@pytest.mark.parametrize("name", NAMES)
@FEW
@given(data=st.data())
def test_prompt_and_answer_are_the_whole_rendering(name, data, tokenizer_of, path):
    """Nothing is lost, doubled or shifted where the two meet."""
    tokenizer = tokenizer_of(name)
    row = data.draw(STRINGS | CHATS)
    write_rows(path, [row])
    (pair,), _ = read(path, tokenizer)
    for key, ids in (("chosen", pair.chosen_ids), ("rejected", pair.rejected_ids)):
        if isinstance(row["prompt"], str):
            text = row["prompt"] + row[key]
            end = tokenizer.eos_token
            whole = tokenizer(text if row[key].endswith(end) else text + end)
        else:
            whole = tokenizer.apply_chat_template(
                row["prompt"] + row[key], tokenize=True, return_dict=True
            )
        assert pair.prompt_ids + ids == whole["input_ids"]


@pytest.mark.parametrize("name", NAMES)
@FEW
@given(data=st.data(), max_length=st.integers(2, 40))
def test_a_cut_keeps_the_beginning_and_never_exceeds_max_length(
    name, data, max_length, tokenizer_of, path
):
    tokenizer = tokenizer_of(name)
    write_rows(path, [data.draw(STRINGS | CHATS)])
    (whole,), _ = read(path, tokenizer)
    pairs, report = read(path, tokenizer, max_length)
    assert bool(pairs) == (len(whole.prompt_ids) < max_length)
    assert (report.used, sum(map(len, report.dropped.values()))) in ((1, 0), (0, 1))
    for pair in pairs:
        assert pair.longest <= max_length
        assert pair.prompt_ids == whole.prompt_ids
        for ids, before in (
            (pair.chosen_ids, whole.chosen_ids),
            (pair.rejected_ids, whole.rejected_ids),
        ):
            assert ids == before[: max_length - len(pair.prompt_ids)]
        cut = [pair.chosen_ids, pair.rejected_ids] != [
            whole.chosen_ids,
            whole.rejected_ids,
        ]
        assert bool(report.cut) == cut


@FEW
@given(
    ids=st.tuples(*[st.lists(st.integers(0, 319), min_size=1, max_size=6)] * 3),
    max_length=st.integers(8, 12),
)
def test_ids_that_are_given_are_used_as_they_are(ids, max_length, tokenizer, path):
    prompt, chosen, rejected = ids
    named = {"prompt_ids": prompt, "chosen_ids": chosen, "rejected_ids": rejected}
    write_rows(
        path, [{"prompt": "not", "chosen": "read", "rejected": "at all"} | named]
    )
    (pair,), _ = read(path, tokenizer, max_length)
    room = max_length - len(prompt)
    assert pair.prompt_ids == prompt
    assert (pair.chosen_ids, pair.rejected_ids) == (chosen[:room], rejected[:room])


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("rows", [STRINGS, IMPLICIT, CHATS], ids=["s", "i", "c"])
@settings(FEW, max_examples=3)
@given(data=st.data())
def test_any_rows_are_tokenised_as_trl_does(rows, name, data, tokenizer_of, path):
    """TRL's own preparation of a data set, twelve rows at a time."""
    tokenizer = tokenizer_of(name)
    drawn = data.draw(st.lists(rows, min_size=12, max_size=12))
    write_rows(path, drawn)
    theirs = DPOTrainer._prepare_dataset(
        SimpleNamespace(_tokenizer=tokenizer),
        Dataset.from_list(drawn),
        tokenizer,
        DPOConfig("unused", bf16=False, use_cpu=True, max_length=48),
        "train",
    )
    pairs, _ = read(path, tokenizer, max_length=48)
    wanted = [
        (
            row["prompt_ids"],
            *(row[key][: 48 - len(row["prompt_ids"])] for key in SIDES),
        )
        for row in theirs
    ]
    assert [(p.prompt_ids, p.chosen_ids, p.rejected_ids) for p in pairs] == wanted


SIDES = ("chosen_ids", "rejected_ids")


@settings(FEW, max_examples=80)
@given(key=st.sampled_from(KEYS), value=JSON, row=CHATS | STRINGS | JSON)
@example(key="chosen", value=[{"role": "assistant"}], row=chat("a", "b", "c"))
@example(
    key="chosen", value=[{"role": "assistant", "content": 5}], row=chat("a", "b", "c")
)
@example(key="chat_template_kwargs", value={"tokenize": False}, row=chat("a", "b", "c"))
@example(
    key="chat_template_kwargs", value={"return_tensors": "pt"}, row=chat("a", "b", "c")
)
@example(key="tools", value='[{"name": "x"}', row=chat("a", "b", "c"))
@example(key="tools", value="[" * 20_000, row=chat("a", "b", "c"))
@example(key="id", value=float("nan"), row=chat("a", "b", "c"))
@example(key="weight", value=float("inf"), row=chat("a", "b", "c"))
def test_any_row_is_used_dropped_or_named_by_its_line(key, value, row, tokenizer, path):
    row = {**row, key: value} if isinstance(row, dict) else row
    good = chat("a", "b", "c", id="good")
    path.write_text(f"{json.dumps(good)}\n{json.dumps(row)}\n", encoding="utf-8")
    try:
        pairs, report = read(path, tokenizer)
    except TrainerError as error:
        assert str(error).startswith("pairs.jsonl line 2: ")
        return
    assert report.used == len(pairs) and report.read == 2


@settings(FEW, max_examples=80)
@given(raw=st.binary(max_size=30))
@example(raw=b"\xff\xfe{\x00}\x00")
@example(raw=b'{"prompt": "\xff"}')
@example(raw=b"[" * 20_000)
@example(raw=b'{"weight": ' + b"9" * 5000 + b"}")
@example(raw=b'{"prompt": "\\ud800", "chosen": "a", "rejected": "b"}')
@example(raw=b"{oops}")
@example(raw=b"{} {}")
@example(raw=b"\x00")
def test_any_bytes_are_read_or_named_by_their_line(raw, tokenizer, path):
    raw = raw.replace(b"\n", b"")
    path.write_bytes(b"\n\r\n" + raw + b"\n")
    try:
        pairs, report = read(path, tokenizer)
    except TrainerError as error:
        assert str(error).startswith("pairs.jsonl line 3")
        return
    assert not pairs and report.read == 0


def test_a_byte_order_mark_blank_lines_and_crlf_are_passed_over(tokenizer, path):
    """The line numbers count every line; a last line needs no end."""
    row = json.dumps(chat("好", "b", "c"), ensure_ascii=False).encode()
    path.write_bytes(b"\xef\xbb\xbf" + row + b"\r\n\r\n  \n" + row)
    pairs, report = read(path, tokenizer)
    assert [pair.line for pair in pairs] == [1, 4]
    assert pairs[0].prompt_ids == pairs[1].prompt_ids


def test_a_line_of_a_megabyte_is_cut_like_any_other(tokenizer, path):
    write_rows(path, [chat("a", "salt " * 200_000, "b")])
    (pair,), report = read(path, tokenizer, max_length=64)
    assert pair.longest == 64
    assert report.cut == {"chosen cut to max_length": [1]}


def test_two_rows_of_one_id_are_refused(tokenizer, path):
    write_rows(path, [chat("a", "b", "c", id="x"), chat("d", "e", "f", id="x")])
    with pytest.raises(
        TrainerError, match="line 2: \"id\" 'x' is already that of line"
    ):
        read(path, tokenizer)


@pytest.mark.parametrize("made", ["folder", "nothing"])
def test_a_file_that_cannot_be_read_is_named(made, tokenizer, path):
    if made == "folder":
        path.mkdir()
    with pytest.raises(TrainerError, match="pairs.jsonl"):
        read(path, tokenizer)


def test_an_empty_file_has_no_pairs(tokenizer, path):
    path.write_text("")
    assert read(path, tokenizer)[0] == []

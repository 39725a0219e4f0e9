"""Rows to token ids: forms, cuts, drops, and what a malformed row is told."""

import pytest

from tests.training.dpo.runs import chat, write_rows
from training.dpo.data import read_pairs
from training.dpo.errors import TrainerError


@pytest.fixture
def read(tmp_path, tokenizer):
    def read_rows(*rows, max_length=512):
        write_rows(tmp_path / "pairs.jsonl", rows)
        return read_pairs(
            tmp_path / "pairs.jsonl", tokenizer, max_length, len(tokenizer)
        )

    return read_rows


def test_messages_are_rendered_by_the_chat_template(read, tokenizer):
    """The prompt ends where the assistant is about to speak; the template's end of turn
    belongs to the answer. Chinese comes back as it went in."""
    (pair,), _ = read(chat("你好", "谢谢", "Salt?", id="a"))
    assert tokenizer.decode(pair.prompt_ids) == (
        "<|im_start|>user\n你好<|im_end|>\n<|im_start|>assistant\n"
    )
    assert tokenizer.decode(pair.chosen_ids) == "谢谢<|im_end|>\n"
    assert tokenizer.decode(pair.rejected_ids) == "Salt?<|im_end|>\n"
    assert (pair.id, pair.line, pair.weight) == ("a", 1, 1.0)


def test_earlier_turns_and_system_messages_belong_to_the_prompt(read, tokenizer):
    row = chat("x", "yes", "no")
    row["prompt"] = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "one"},
        {"role": "assistant", "content": "two"},
        {"role": "user", "content": "three"},
    ]
    (pair,), _ = read(row)
    prompt = tokenizer.decode(pair.prompt_ids)
    assert "Be brief." in prompt and "two" in prompt and prompt.endswith("assistant\n")


def test_an_answer_may_span_turns(read, tokenizer):
    row = chat("x", "call", "no")
    row["chosen"] += [
        {"role": "tool", "content": "42"},
        {"role": "assistant", "content": "42!"},
    ]
    (pair,), _ = read(row)
    assert tokenizer.decode(pair.chosen_ids).count("<|im_start|>") == 2


def test_plain_strings_get_the_end_of_text_once(read, tokenizer):
    end = tokenizer.eos_token
    (pair,), _ = read({"prompt": "water ", "chosen": "salt", "rejected": f"time{end}"})
    assert tokenizer.decode(pair.chosen_ids).endswith(f"salt{end}")
    assert pair.rejected_ids.count(tokenizer.eos_token_id) == 1


def test_without_a_prompt_the_common_beginning_is_the_prompt(read, tokenizer):
    """Of turns, and of characters, where the space goes to the word after it."""
    turn = {"role": "user", "content": "Salt?"}
    answers = chat("", "yes", "no")
    pairs, _ = read(
        {
            "chosen": [turn, *answers["chosen"]],
            "rejected": [turn, *answers["rejected"]],
        },
        {"chosen": "I do know", "rejected": "I do not"},
    )
    assert tokenizer.decode(pairs[0].prompt_ids).endswith("assistant\n")
    assert tokenizer.decode(pairs[0].chosen_ids) == "yes<|im_end|>\n"
    assert tokenizer.decode(pairs[1].prompt_ids) == "I do"


def test_where_the_prompt_alone_renders_differently_the_answer_starts_earlier(
    read, tokenizer, monkeypatch
):
    """A template that prints <think> only for the prompt alone: that end of the prompt
    is left out, and the row is counted."""
    template = tokenizer.chat_template.replace("assistant\n{%", "assistant\n<think>{%")
    monkeypatch.setattr(tokenizer, "chat_template", template)
    (pair,), report = read(chat("x", "yes", "no"))
    assert tokenizer.decode(pair.prompt_ids).endswith("assistant\n")
    assert report.left_out_of_prompt == [1]


def test_given_ids_are_used_as_they_are(read):
    row = chat("x", "y", "z", prompt_ids=[5, 6], chosen_ids=[7, 2], rejected_ids=[8])
    (pair,), _ = read(row)
    assert (pair.prompt_ids, pair.chosen_ids, pair.rejected_ids) == (
        [5, 6],
        [7, 2],
        [8],
    )


def test_long_answers_are_cut_and_counted_by_side(read):
    """Room for 4 − 2 = 2 answer tokens on each side."""
    rows = [
        {"prompt_ids": [5, 6], "chosen_ids": [7, 8, 9], "rejected_ids": [1, 2]},
        {"prompt_ids": [5, 6], "chosen_ids": [7], "rejected_ids": [1, 2, 3, 4]},
    ]
    pairs, report = read(*rows, max_length=4)
    assert [p.chosen_ids for p in pairs] == [[7, 8], [7]]
    assert [p.rejected_ids for p in pairs] == [[1, 2], [1, 2]]
    cut = report.as_dict()["cut"]
    assert cut["chosen cut to max_length"] == {"count": 1, "lines": [1]}
    assert cut["rejected cut to max_length"] == {"count": 1, "lines": [2]}


def test_what_cannot_train_is_dropped_and_counted(read):
    """A prompt that fills max_length, an empty answer, an only token without anything
    before it to predict it from, a weight of 0. The one-token answer stays."""
    rows = [
        {"prompt_ids": [5, 6, 7, 8], "chosen_ids": [1], "rejected_ids": [2]},
        {"prompt_ids": [5], "chosen_ids": [1], "rejected_ids": []},
        {"prompt_ids": [], "chosen_ids": [1], "rejected_ids": [2, 3]},
        {"prompt_ids": [5], "chosen_ids": [1], "rejected_ids": [2], "weight": 0},
        {"prompt_ids": [5], "chosen_ids": [1], "rejected_ids": [2], "weight": 0.5},
    ]
    pairs, report = read(*rows, max_length=4)
    assert [(p.line, p.weight) for p in pairs] == [(5, 0.5)]
    assert report.dropped == {
        "the prompt alone fills max_length": [1],
        "rejected has no token to predict": [2],
        "chosen has no token to predict": [3],
        "its weight is 0": [4],
    }
    assert (report.read, report.used) == (5, 1)


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ([], "must be an object"),
        ({"prompt": "a", "chosen": "b"}, '"rejected" is missing'),
        ({"prompt": "a", "chosen": "b", "rejected": 3}, '"rejected" must be a text'),
        (chat("a", "b", "c") | {"chosen": "b"}, '"chosen" is a text where the others'),
        (
            # As HuggingFaceH4/ultrafeedback_binarized has it.
            chat("a", "b", "c") | {"prompt": "a"},
            "use one form, or leave it out if the answers begin with it",
        ),
        (chat("a", "b", "c") | {"rejected": []}, '"rejected" must be a text or a list'),
        (chat("a", "b", "c") | {"chosen": [{"content": "b"}]}, '"role"'),
        (chat("a", "b", "c", weight=-1), '"weight" must be a number of at least 0'),
        (chat("a", "b", "c", weight="1"), '"weight" must be a number'),
        (chat("a", "b", "c", weight=1e308), '"weight" must be 0 or between 1e-300 and'),
        (chat("a", "b", "c", weight=5e-324), "and 1e+300, not 5e-324"),
        (chat("a", "b", "c", prompt_ids=[1]), '"chosen_ids" is missing'),
        (
            {"prompt_ids": [1], "chosen_ids": [9999], "rejected_ids": [2]},
            '"chosen_ids" must be a list of token ids from 0 to',
        ),
        ({"prompt": "a", "completion": "b", "label": True}, 'is for the losses "kto"'),
        (chat("a", "b", "c", tools="{"), '"tools" must be a list'),
        ({"chosen": "a", "rejected": [{"role": "user"}]}, "must both be texts or both"),
    ],
)
def test_a_malformed_row_is_named_by_line_and_field(read, row, said):
    with pytest.raises(TrainerError) as raised:
        read(chat("a", "b", "c"), row)
    assert str(raised.value).startswith("pairs.jsonl line 2: ")
    assert said in str(raised.value)


def test_a_line_that_is_not_json_is_named(tmp_path, tokenizer):
    path = tmp_path / "pairs.jsonl"
    path.write_text('{"prompt": "a", "chosen": "b", "rejected": "c"}\n\n{oops}\n')
    with pytest.raises(TrainerError, match="pairs.jsonl line 3 is not valid JSON"):
        read_pairs(path, tokenizer, 512, 300)


def test_bytes_that_are_not_utf8_are_named(tmp_path, tokenizer):
    path = tmp_path / "pairs.jsonl"
    path.write_bytes(b'{"prompt": "\xff"}\n')
    with pytest.raises(TrainerError, match="line 1 is not UTF-8"):
        read_pairs(path, tokenizer, 512, 300)


def test_a_byte_order_mark_may_stand_on_a_blank_line(tmp_path, tokenizer):
    """The second line is the pair's; both lines were passed over but for the mark."""
    path = tmp_path / "pairs.jsonl"
    write_rows(path, [chat("one", "two", "three")])
    path.write_bytes("\ufeff\n".encode() + path.read_bytes())
    (pair,), _ = read_pairs(path, tokenizer, 512, len(tokenizer))
    assert pair.line == 2

"""What was noted in English is told in the reader's language, fields and all."""

from io import BytesIO

import pytest
from django.utils import translation

from annotation.files import tables
from annotation.files.lines import Lines, Unpacked, buffered
from annotation.retelling import retold
from annotation.validation import PairFacts, run_rule
from inference.sampling import SamplingParams


@pytest.fixture(autouse=True)
def _chinese_reader():
    with translation.override("zh-hans"):
        yield


def facts(**changes) -> PairFacts:
    usual = {
        "chosen": "水开后煮六分钟。",
        "rejected": "我不知道。",
        "kind": "judged",
        "chosen_finish": "stop",
        "rejected_finish": "stop",
        "prompt_tokens": 10,
        "chosen_tokens": 20,
        "rejected_tokens": 8,
    }
    return PairFacts(**(usual | changes))


@pytest.mark.parametrize(
    ("rule", "changes", "params", "chinese"),
    [
        ("identical", {"rejected": "水开后煮六分钟。"}, {}, "两个回答相同"),
        ("empty", {"chosen": " "}, {}, "被选回答为空"),
        ("empty", {"rejected": ""}, {}, "被拒回答为空"),
        ("cut_off", {"chosen_finish": "length"}, {}, "被选回答在max_tokens处被截断"),
        ("cut_off", {"rejected_finish": "length"}, {}, "被拒回答在max_tokens处被截断"),
        ("chosen_width", {}, {"min_columns": 50}, "被选回答宽16列，不足50列"),
        ("rejected_width", {}, {"min_columns": 20}, "被拒回答宽10列，不足20列"),
        ("similarity", {}, {"max_ratio": -1.0}, "相似度0.154高于-1"),
        (
            "similarity",
            {"chosen": "字" * 500_000},
            {"max_ratio": 0.9},
            "回答长500000个字符，过长而无法比对",
        ),
        ("max_length", {"prompt_tokens": None}, {"max_tokens": 9}, "无法计算token数"),
        ("max_length", {}, {"max_tokens": 16}, "连同提示共30个token，超过16"),
        ("similarity", {}, {}, "规则出错：KeyError: 'max_ratio'"),
    ],
)
def test_every_reason_of_a_rule_is_told_in_chinese(rule, changes, params, chinese):
    """Widths: 8 and 5 Chinese characters of two columns. Similarity: the only character
    in common is the full stop, 1 − (7 + 4)/13 = 0.154."""
    assert retold(run_rule(rule, facts(**changes), params).reason) == chinese


@pytest.mark.parametrize(
    ("sampling", "chinese"),
    [
        ({"temperature": -1.0}, "temperature必须在0到2之间，而不是-1.0"),
        ({"top_p": 0}, "top_p必须大于0且不超过1，而不是0"),
    ],
)
def test_the_range_of_a_sampling_parameter_is_told_in_chinese(sampling, chinese):
    with pytest.raises(ValueError) as wrong:
        SamplingParams.from_dict(sampling)
    assert retold(str(wrong.value)) == chinese


def test_sentences_within_sentences_are_told_too():
    noted = (
        "The trainer was killed (SIGKILL); out of memory is the usual reason."
        " This was attempt 3, the last one made by itself."
    )
    assert retold(noted) == (
        "训练器被强行终止（SIGKILL）；通常是因为内存不足。"
        "这是第3次尝试，也是最后一次自动尝试。"
    )
    assert retold("5 pairs frozen, 2 of them replayed; 1 held out") == (
        "已冻结5个偏好对，其中重放2个；预留1个"
    )
    refused = "A vLLM server is not ready (starting: 206 s). Try again when it is."
    assert "starting" not in retold(refused)


@pytest.mark.parametrize(
    ("file", "chinese"),
    [
        (
            '[{"prompt": oops}]',
            "不是JSON：第12列出错（缺少值）；请每行写一个对象；"
            "其后的内容无法读取；请修正，或改写为JSONL",
        ),
        (
            'prompt\n"' + "x\n" * tables.MAX_CELL,
            "不是CSV：单元格超过上限（4194304个字符）；请检查引号；其后的内容无法区分",
        ),
        ('prompt\n"a"b\n', '不是CSV：“"”之后应为“,”；请检查引号'),
        ('prompt\n"a\n', "不是CSV：引号内的数据未结束；请检查引号"),
    ],
)
def test_why_a_file_could_not_be_read_on_is_told_in_chinese(file, chinese):
    stream = buffered(BytesIO(file.encode()), Unpacked(10**9))
    with translation.override("en"):  # As a worker writes it down.
        ((_line, bad),) = tables.text_rows(Lines(stream, 10**7), None)
    assert retold(str(bad)) == chinese


def test_what_is_no_sentence_of_ours_stays_as_it_is():
    for text in (
        "",
        "CUDA error: device-side assert",
        "an answer of a person",
        "100 % %(wrong)s",
        "x" * 5000,
    ):
        assert retold(text) == text


def test_a_reader_of_english_gets_what_was_written():
    with translation.override("en"):
        assert retold("the chosen answer is empty") == "the chosen answer is empty"


def test_figures_with_a_format_are_put_in_as_they_were_printed():
    noted = "The loss went from 0.690 to 0.500; guessing gives 0.693."
    assert retold(noted) == "损失从0.690变为0.500；随机猜测时为0.693。"
    noted = "On pairs it never trains on, it ranks 75 % as people did."
    assert retold(noted) == "在从未训练过的偏好对上，它有75%的排序与人一致。"


@pytest.mark.parametrize("words", ["yes", "skip", "Pairs", "100 %%"])
def test_what_an_answer_says_is_quoted_as_it_says_it(words):
    """Words that the catalog knows, Django's own among them, and a sign that it escapes."""
    noted = f"the chosen answer says “{words}” 12 times in a row, more than 5"
    assert retold(noted) == f"被选回答连续12次出现“{words}”，超过5次"


def test_what_stands_in_no_quotes_is_told_as_well():
    noted = "the prompt is in Latin, the chosen answer in Chinese"
    assert retold(noted) == "提示为拉丁文，被选回答为中文"

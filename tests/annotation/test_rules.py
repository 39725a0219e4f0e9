"""The rules about content: what they find, what they must leave alone, and odd texts."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from annotation.retelling import RULE_REASONS, _sentence
from annotation.rules import personal
from annotation.rules.facts import without_code
from annotation.rules.language import same_script
from annotation.rules.likeness import bands, likeness, runs
from annotation.rules.refusals import refusal
from annotation.rules.repetition import longest_run, repeated_share
from annotation.validation import (
    BROKE,
    CHOICES,
    DEFAULTS,
    LISTS,
    RANGES,
    RULES,
    PairFacts,
    check,
    run_rule,
    state_of,
    version,
)


def says(rule, chosen="x", rejected="y", prompt="", **params):
    facts = PairFacts(chosen, rejected, prompt=prompt)
    return run_rule(rule, facts, {**DEFAULTS[rule], **params})


# --- Whose model it is -------------------------------------------------------------------
@pytest.mark.parametrize(
    "answer",
    [
        "I am ChatGPT, how can I help?",
        "Hi! I’m Qwen2.5, created by Alibaba Cloud.",
        "As an AI language model trained by OpenAI, I can't taste soup.",
        "as a large language model developed by Google, I have no opinion",
        "I'm Claude, an AI assistant made by Anthropic.",
        "My name is DeepSeek-R1.",
        "I was created by OpenAI to help.",
        "My creators at Anthropic taught me so.",
        "As ChatGPT, I can't browse.",
        "我是通义千问，由阿里云开发的大模型。",
        "作为一个由OpenAI训练的语言模型，我无法品尝。",
        "我是由百度研发的文心一言。",
        "我叫Kimi，由月之暗面推出。",
        "我是 ChatGPT，一个由 OpenAI 训练的大型语言模型。",
        "作为一个由 OpenAI 训练的语言模型，我无法品尝。",
        "我是 Qwen，由阿里云开发。",
        "我是 Claude，由 Anthropic 开发。",
        "我是由OpenAI訓練的語言模型。",
        "我是華為的AI，請多指教。",
        "I am an artificial intelligence created by OpenAI.",
        "I’m an AI assistant called Claude, created by Anthropic.",
        "I was trained by OpenAI as a language model.",
    ],
)
def test_an_answer_that_says_whose_model_it_is_is_found_on_either_side(answer):
    for sides in ({"chosen": answer}, {"rejected": answer}):
        found = says("identity", **sides)
        assert found.result == "reject"
        assert "“" in found.reason, "the words are quoted"


@pytest.mark.parametrize(
    "answer",
    [
        "OpenAI released GPT-4 in March 2023; Anthropic answered with Claude.",
        "As GPT-4 showed, scale helps.",
        "I am a Gemini, born on the first of June.",
        "I'm Claude Monet's great-grandson.",
        "As a teacher trained by Montessori, I let them play.",
        "The llama is a South American animal; I am fond of llamas.",
        "A model called Qwen was published.",
        "As an AI language model, I have no taste.",  # names nobody
        "华为和腾讯都是中国公司，我是学生。",
        "作为腾讯的客户，我推荐这个套餐。",
        "```\nprint('I am ChatGPT')\n```",
        "1. Run:\n\n    ~~~\n    I am ChatGPT\n    ~~~\n",
        "Dear Sir, I work for Google as a software engineer.",
        "My developers at Microsoft love it.",
        "I was trained by Google for two weeks and liked it.",
        "I was trained by Microsoft as an engineer.",
        "I'm DeepSeek's first customer.",
        "我是华为AI工程师。",
        "我是腾讯的AI研究员，今年三十岁。",
        "我来自百度AI部门。",
        "我是阿里云大模型团队的负责人。",
    ],
)
def test_speaking_of_a_model_is_not_speaking_as_one(answer):
    assert says("identity", answer).result == "pass"


def test_a_projects_own_words_count_wherever_they_stand_but_as_whole_words():
    own = {"words": ["Nova", "小助手", "c++ (x"]}
    assert says("identity", "ask NOVA about it", **own).result == "reject"
    assert says("identity", "你好，我的小助手们", **own).result == "reject"
    assert says("identity", "a supernova explodes", **own).result == "pass"
    assert says("identity", "in c++ (x) it works", **own).result == "reject"


# --- Scripts -------------------------------------------------------------------------------
CHINESE = "水开后把鸡蛋放进锅里，煮六分钟，然后用冷水冲一下再剥壳。"
ENGLISH = "Put the eggs into boiling water for six minutes, then rinse them."
RUSSIAN = "Положите яйца в кипящую воду на шесть минут, потом остудите."
JAPANESE = "お湯が沸いたら卵を入れて六分ほど茹で、冷水で冷やしてください。"


@pytest.mark.parametrize(
    ("prompt", "answer", "result"),
    [
        ("怎么煮鸡蛋？", ENGLISH, "reject"),
        ("How do I boil an egg?", CHINESE, "reject"),
        ("How do I boil an egg?", RUSSIAN, "reject"),
        ("卵はどうやって茹でますか", CHINESE, "reject"),
        ("怎么煮鸡蛋？", CHINESE, "pass"),
        ("卵はどうやって茹でますか", JAPANESE, "pass"),
        ("How do I boil an egg?", "¿Cómo? Hierve el agua y espera seis minutos.", "pass"),
        ("Translate to English: 怎么煮鸡蛋", ENGLISH, "pass"),  # shares are near
        ("把“鸡蛋煮六分钟就可以了”翻译过来给我看", ENGLISH, "could_not_check"),
        ("Say it in Chinese: boil the eggs", CHINESE, "could_not_check"),
        ("请总结：" + ENGLISH * 5, CHINESE, "could_not_check"),
        ("用 PyTorch 和 DistributedDataParallel 写一个例子给我看看好吗谢谢", ENGLISH, "could_not_check"),
        ("Python 编程？", CHINESE, "could_not_check"),
        # Kanji alone, as short questions in Japan often are; 请 and 吗 Shift-JIS lacks.
        ("自然言語処理", JAPANESE, "could_not_check"),
        ("Explain 量子力学", JAPANESE, "could_not_check"),
        ("请介绍一下北京好吗", JAPANESE, "reject"),
        ("写一个快速排序", "```python\ndef sort(xs): return sorted(xs)\n```\n" + CHINESE, "pass"),
        ("怎么煮鸡蛋？", "6 min, 100 °C", "pass"),  # too little to say
        ("2 + 2 = ?", CHINESE, "pass"),
        ("ডিম কীভাবে সিদ্ধ করব?", ENGLISH, "reject"),
        ("முட்டையை எப்படி வேகவைப்பது?", ENGLISH, "reject"),
        ("How do I boil an egg?", "ডিম ফুটন্ত পানিতে ছয় মিনিট রাখুন, তারপর ঠান্ডা পানিতে ধুয়ে ফেলুন।", "reject"),
        ("", ENGLISH, "pass"),
    ],
)  # fmt: skip
def test_the_chosen_answers_script_is_held_against_the_prompts(prompt, answer, result):
    assert says("language", answer, ENGLISH, prompt).result == result


def test_the_rejected_answer_may_be_in_any_script():
    assert says("language", CHINESE, ENGLISH, "怎么煮鸡蛋？").result == "pass"


def test_the_share_of_the_prompts_script_is_what_the_parameter_says():
    """19 Han at weight 3 are 57; 'rinse' and 'peel' add 9 Latin: 57 / 66 = 0.864."""
    mixed = "水开后把鸡蛋放进锅里煮六分钟然后用冷水冲一下"[:19] + " rinse peel"
    found = same_script(PairFacts(mixed, "", prompt="怎么煮鸡蛋"), {"min_share": 0.2})
    assert found.measured == pytest.approx(57 / 66)


# --- Refusals ------------------------------------------------------------------------------
@pytest.mark.parametrize(
    "answer",
    [
        "I'm sorry, but I can't help with that.",
        "抱歉，我無法回答這個問題。",
        "作為一個人工智慧，我沒有能力預測股價。",
        "I’m not able to assist with this request.",
        "I cannot provide medical advice.",
        "Unfortunately, I am unable to share it.",
        "As an AI language model, I don't have access to it.",
        "  \n**I must decline** to answer.",
        "抱歉，我无法回答这个问题。",
        "对不起，这个问题我不能讨论。",
        "作为一个人工智能，我无法提供投资建议。",
    ],
)
def test_a_refusal_at_the_beginning_is_seen(answer):
    assert refusal(answer)


@pytest.mark.parametrize(
    "answer",
    [
        "I'm sorry to hear that. Have you called the office?",
        "I can't recommend this book enough!",
        "I can't help but smile.",
        "I can't help smiling when she comes in.",
        "I couldn't help smiling when she came in.",
        "I will not give up, said the little train.",
        "I could not offer more than 5 dollars for the chair.",
        "Unfortunately the store was closed, so I could not buy milk.",
        "我不能支持这个方案的预算。",
        "Sorry for the delay: the answer is 7.",
        "I do not know.",
        "You can write it like this: I, then the verb.",
        "我不能吃辣，所以点了清汤。",
        "这个问题很好。" * 60 + "抱歉，我无法回答。",  # far behind the beginning
    ],
)
def test_what_sounds_like_a_refusal_and_is_none(answer):
    assert not refusal(answer)


def test_whose_refusal_rejects_is_a_parameter_and_two_refusals_are_equal():
    no, yes = "I'm sorry, I can't help with that.", "Turn the knob to the left."
    assert says("refusal", no, yes, side="chosen").result == "reject"
    assert says("refusal", yes, no, side="chosen").result == "pass"
    assert says("refusal", yes, no, side="rejected").result == "reject"
    assert says("refusal", yes, no, side="either").result == "reject"
    assert says("refusal", no, no, side="either").result == "pass"


# --- Repetition -----------------------------------------------------------------------------
def test_the_share_of_repeated_runs_is_counted_by_hand():
    """50 words a b c d e a b …: 47 runs of four, 5 of them different: 1 − 5/47."""
    assert repeated_share(list("abcde") * 10) == pytest.approx(1 - 5 / 47)
    assert repeated_share(list("abcde") * 8) == 0, "37 runs say nothing yet"


def test_the_longest_run_of_a_phrase():
    assert longest_run(["no", "ha", "ha", "ha", "no"]) == (3, ["ha"])
    assert longest_run(["x", "the", "cat", "the", "cat", "the", "cat", "y"])[0] == 3
    assert longest_run([]) == (0, [])
    assert longest_run(["one"]) == (1, ["one"])


@pytest.mark.parametrize(
    ("answer", "result"),
    [
        ("I like tea. " * 30, "reject"),
        ("A line with ```code``` in it.\n```so``` it is.\n" + "I like tea. " * 30, "reject"),
        ("😂" * 400, "reject"),
        ("Well" + "!" * 800, "reject"),
        ("-\n" * 300, "reject"),
        ("| " * 300, "reject"),
        ("Ja" + "ha" * 500, "reject"),
        ("A title\n" + "=" * 120 + "\nand text.", "pass"),
        ("| Tea | yes | yes | yes |\n" * 8, "pass"),
        ("$$\\begin{pmatrix}" + "0 & 0 & 0 \\\\ " * 8 + "\\end{pmatrix}$$", "pass"),
        ("1. Install:\n\n    ```text\n" + "    0 0 0 0 0 0\n" * 5 + "    ```\n2. Done.", "pass"),
        ("哈" * 30, "reject"),
        ("好的，我明白了。" * 12, "reject"),
        ("Very " * 5 + "good.", "pass"),
        ("哈哈哈哈哈哈，" + CHINESE, "pass"),
        ("\n".join(f"{n} × 7 = {n * 7}" for n in range(1, 21)), "pass"),
        ("\n".join(f"{n}. Open drawer {n} and take out tool {n * 3}." for n in range(12)), "pass"),
        ("| a | b |\n|---|---|\n" + "\n".join(f"| {n} | {n * n} |" for n in range(20)), "pass"),
        ("```\n" + "0 0 0 0 0 0 0 0\n" * 20 + "```\nThe zero matrix of the size asked for.", "pass"),
        ("", "pass"),
    ],
)  # fmt: skip
def test_a_stuck_policy_is_told_from_a_list_a_table_and_code(answer, result):
    assert says("repetition", answer).result == result


def test_a_rejected_answer_may_repeat_itself():
    assert says("repetition", ENGLISH, "I like tea. " * 30).result == "pass"


# --- Personal data ----------------------------------------------------------------------------
ALL = dict.fromkeys(personal.KINDS, True)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("My card is 4539 5787 6362 1486.", "a card number"),
        ("身份证号11010519491231002X。", "a Chinese identity number"),
        ("IBAN FR14 2004 1010 0505 0001 3M02 606 at the bank", "a bank account number"),
        ("Pay to NL91ABNA0417164300 BIC ABNANL2A", "a bank account number"),
        ("write to jane.doe+tag@mail.example-shop.co.uk, she knows", "an e-mail address"),
        ("ring +49 30 1234567 after six", "a phone number"),
        ("call (415) 867-5309 now", "a phone number"),
        ("打电话 138 0013 8000 给他", "a phone number"),
        ("请打电话13800138000联系我", "a phone number"),
        ("我的卡号是4539578763621486。", "a card number"),
        ("カードは4539578763621486です", "a card number"),
        ("카드번호는4539578763621486입니다", "a card number"),
        ("我的卡号是４５３９５７８７６３６２１４８６。", "a card number"),
        ("请发到zhang.wei@163.com谢谢", "an e-mail address"),
    ],
)  # fmt: skip
def test_personal_data_is_found_and_told_masked(text, words):
    found = says("personal_data", ENGLISH, text, **ALL)
    assert found.result == "reject" and words in found.reason
    told = found.reason.rpartition(": ")[2]
    assert len(told) == 5 and told not in text


@pytest.mark.parametrize(
    "text",
    [
        "The test card 4242 4242 4242 4242 always works.",
        "1234 5678 9012 3456",  # no card begins so
        "4539 5787 6362 1487",  # the check digit is wrong
        "4000000000000000 rows",
        "11010519491231002Y or 110105194912310021",  # wrong checksum
        "GB00WEST12345698765432",
        "Mail name@example.com or you@yourdomain.com.",
        "user@localhost, @mention, a@b",
        "call 212-555-0142 in the film",
        "Version 1.10.2024.2026, commit 4f2a90b, 2026-11-21 13:45",
        "ISBN 978-3-16-148410-0",
        "3.14159265358979323846264338327950288",
        "550e8400-e29b-41d4-a716-446655440000",
        "The population was 1412000000 in 2021, 1 408 000 000 in 2024.",
    ],
)
def test_numbers_for_tests_examples_and_everything_else_pass(text):
    assert says("personal_data", text, **ALL).result == "pass"


def test_checksums_against_published_examples():
    """ISO 13616's registry, GB 11643's annex, and Luhn's own 79927398713."""
    assert personal.luhn("79927398713") and not personal.luhn("79927398710")
    assert personal.iban("GB82WEST12345698765432")
    assert personal.iban("DE89370400440532013000")
    assert not personal.iban("DE88370400440532013000")
    assert personal.cn_id("11010519491231002X") and personal.cn_id("440524188001010014")
    assert not personal.cn_id("110105194912310020")


def test_kinds_found_by_looks_alone_are_off_until_asked_for():
    for text in ("jane@doe-family.net", "+49 30 1234567"):
        assert says("personal_data", text).result == "pass"
    assert says("personal_data", "4539578763621486").result == "reject"
    assert says("personal_data", "4539578763621486", cards=False).result == "pass"


# --- Likeness ------------------------------------------------------------------------------------
def test_likeness_is_jaccards_index_of_runs_of_five():
    """ "abcdefg" has abcde bcdef cdefg; "abcdefh" abcde bcdef cdefh: 2 of 4."""
    assert likeness(runs("abcdefg"), runs("abcdefh")) == pytest.approx(2 / 4)
    assert runs("Hi!") == runs("  hi") == {"hi"}
    assert likeness(runs("?!"), runs("…")) == 0


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("Sort a list in C", "Sort a list in C++"),
        ("What is 12 + 30?", "What is 12 * 30?"),
        ("Solve x > 3.", "Solve x < 3."),
        ("लड़का क्या करता है?", "लड़की क्या करती है?"),
    ],
)
def test_a_symbol_or_a_vowel_sign_makes_another_prompt(one, other):
    assert likeness(runs(one), runs(other)) < 0.9


def test_punctuation_makes_no_other_prompt():
    assert runs("What is a long-term plan?") == runs("- what is a “long term” plan!!")


def test_alike_prompts_share_a_band_and_others_hardly_ever():
    """At likeness s two texts share one of ten bands of five with 1 − (1 − s⁵)¹⁰: of
    forty pairs at 0.9 and more all but surely all, of pairs far apart next to none."""
    base = " ".join(f"word{n * 79 % 100:03}" for n in range(60))
    near = [base.replace(f"word{n * 79 % 100:03}", "other") for n in range(40)]
    assert all(likeness(runs(base), runs(text)) > 0.9 for text in near)
    assert all(set(bands(base)) & set(bands(text)) for text in near)
    far = [" ".join(f"{n * m * 31 % 9973}x" for n in range(60)) for m in range(1, 40)]
    assert not any(set(bands(base)) & set(bands(text)) for text in far)


@settings(max_examples=100, deadline=None)
@given(st.text(st.characters(codec=None), max_size=300))
def test_bands_fit_the_column_and_are_the_same_for_the_same_text(text):
    found = bands(text)
    assert len(found) in (0, 10) and len(set(found)) == len(found)
    assert all(0 <= value < 2**63 for value in found)
    assert bands(f"  {text}\n") == found


def test_contradictions_are_settled_by_the_majority():
    def said(agreeing, opposing):
        facts = PairFacts("a", "b", agreeing=agreeing, opposing=opposing)
        return run_rule("contradiction", facts, {}).result

    assert said(1, 0) == said(2, 1) == "pass"
    assert said(1, 1) == said(1, 2) == "reject"
    assert said(None, None) == "could_not_check"


def is_known(reason: str) -> bool:
    """Whether retelling.py can tell it in another language."""
    found = [_sentence(sentence, sentence) for sentence in RULE_REASONS]
    return reason in RULE_REASONS or any(
        sentence[1].fullmatch(reason) for sentence in found if sentence
    )


def test_every_reason_can_be_told_in_another_language():
    no, loop = "I'm sorry, I can't help with that.", "I like tea. " * 30
    reasons = [
        says("identity", "x", "I am ChatGPT").reason,
        says("refusal", no, "Yes.").reason,
        says("refusal", "Yes.", no, side="either").reason,
        says("repetition", loop).reason,
        says("repetition", "ha " * 30).reason,
        says("language", ENGLISH, "", "怎么煮鸡蛋？").reason,
        says("language", ENGLISH, "", "把“鸡蛋煮六分钟就可以了”翻译过来给我看").reason,
        says("language", CHINESE, "", "请总结：" + ENGLISH * 5).reason,
        says("near_duplicate").reason,
        says("contradiction").reason,
        run_rule(
            "near_duplicate",
            PairFacts("", "", near_prompt=0.5, near_left_out=10),
            {"min_likeness": 0.9},
        ).reason,
        run_rule(
            "near_duplicate", PairFacts("", "", near_prompt=1.0), {"min_likeness": 0.9}
        ).reason,
        run_rule("contradiction", PairFacts("", "", agreeing=1, opposing=2), {}).reason,
        run_rule(
            "max_length",
            PairFacts("", "", measured={"max_length": 9}, round_max_length=8),
            {"max_tokens": 10},
        ).reason,
    ]
    assert all(reasons) and not [reason for reason in reasons if not is_known(reason)]


# --- All of them --------------------------------------------------------------------------------
WORDS = st.sampled_from(
    ["I am ", "as an AI ", "trained by ", "OpenAI", "抱歉，", "我无法", "我是由", "ha ", "中", "\u202e"]
    + ["I'm sorry, ", "4111 ", "GB82", "@", ".com", "```\n", "+49 ", "\ud800", "\0", "أهلا ", "\u0301"]
)  # fmt: skip
TEXT = st.text(st.characters(codec=None), max_size=200) | st.lists(WORDS).map("".join)
EVERY = {
    name: {**params, "on": True, **(ALL if name == "personal_data" else {})}
    for name, params in DEFAULTS.items()
}


@settings(max_examples=200, deadline=None)
@given(TEXT, TEXT, TEXT)
def test_no_rule_ever_fails_with_sound_parameters(chosen, rejected, prompt):
    facts = PairFacts(chosen, rejected, prompt, agreeing=1, opposing=0, near_prompt=0.5)
    for verdict in check(facts, EVERY):
        assert not verdict.reason.startswith(BROKE), verdict
        assert len(verdict.reason) <= 300
        assert verdict.result == "pass" or is_known(verdict.reason), verdict


@pytest.mark.parametrize(
    "piece",
    ["a", "a b ", "(", "1", "1 ", "4111 ", "GB82 ", "+1 ", "12-", "a@", "a@a.", "``` ", "```\n", "~~~\n", "> ", "|", "| a ", "$$", "\\[", "\\[\\]"]
    + ["I'm sorry ", "as a ", "I am an AI language ", "我是由", "抱歉", " ", "\n", "ab中cd ", "\u0301"],
)  # fmt: skip
def test_a_hundred_thousand_characters_made_to_hurt_end_at_once(piece):
    """A pattern that is quadratic in one of these would take minutes here."""
    text = (piece * 100_000)[:100_000]
    facts = PairFacts(
        text, text + "x", prompt=text, agreeing=1, opposing=0, near_prompt=0.0
    )
    slow = {"similarity"}  # says itself that it is too long
    for verdict in check(facts, EVERY):
        assert verdict.rule in slow or not verdict.reason.startswith(BROKE)
    bands(text)


def test_code_is_cut_out_by_its_fences_even_an_open_one():
    assert without_code("a\n```py\nx\n```\nb").split() == ["a", "b"]
    assert without_code("a\n```\nx").split() == ["a"]
    assert without_code("a `x` b") == "a `x` b"


def test_every_parameter_has_a_kind_and_its_default_fits_it():
    for rule, params in DEFAULTS.items():
        for name, default in params.items():
            if name in RANGES:
                kind, least, most = RANGES[name]
                assert isinstance(default, kind) and least <= default <= most
            elif name in CHOICES:
                assert default in CHOICES[name]
            elif name in LISTS:
                assert isinstance(default, list)
            else:
                assert isinstance(default, bool), f"{rule}.{name}"
    assert list(DEFAULTS) == list(RULES)


def test_the_version_changes_with_a_parameter_and_not_with_what_is_off():
    base = version({})
    assert version(DEFAULTS) == base, "defaults named or not"
    assert version({"similarity": {"max_ratio": 0.85}}) != base
    assert version({"language": {"min_share": 0.5}}) == base, "the rule is off"
    assert version({}, accept_unchecked=False) != base


def test_what_a_reviewer_let_through_does_not_reject_and_nothing_else():
    verdicts = check(PairFacts("", "I am ChatGPT, and this is wide enough."), {})
    rules = [verdict.rule for verdict in verdicts if verdict.result == "reject"]
    assert {"empty", "identity", "chosen_width"} <= set(rules)
    assert state_of(verdicts, let_through=rules) == "accepted"
    assert state_of(verdicts, let_through=rules[1:]) == "rejected"

"""Pages read in Chinese hold no English but names: what is not marked shows here.

Everything people wrote is Chinese in these projects, so that a word in Latin letters is
ours. What workers noted was written in English, as they do.
"""

import re
from html.parser import HTMLParser

import pytest
from django.utils import timezone, translation

from annotation.checking import check_waiting
from tests.acts import decide
from tests.factories import (
    make_comparison,
    make_completion,
    make_flag,
    make_judgment,
    make_pair,
    make_policy,
    make_project,
    make_prompt,
    make_user,
)
from training import attempts, ingest
from training.dpo.config import TrainingConfig
from training.dpo.defaults import settle
from training.dpo.guardrails import SENTENCES
from training.models import TrainingRound
from training.rounds import start_round

NAMES = """
Tiebreak JSONL CSV UTF JSON Markdown TRL OpenAI Together LLaMA Factory KTO LoRA vLLM vllm
DPO GPU ln top alpha beta Beta token prompt messages EN English SFT PEFT HTTP NUL IBAN
Parquet Azure zip gzip tar Arrow Hugging Face Label Studio Argilla chosen rejected answers tie
temperature epochs json preflight Dawid Skene Ctrl Enter Esc Escape MODEL
"""
"""Words that stay as they are: names, formats, units, keys and fields of files."""

VERBATIM = {"pre", "code", "kbd", "script", "title"}
SPOKEN = {"aria-label", "title", "placeholder", "alt"}
VOID = {"input", "meta", "link", "img", "br", "hr"}


@pytest.fixture(autouse=True)
def _next_test_reads_english():
    """What a request activates outlasts it."""
    with translation.override("en"):
        yield


class Reader(HTMLParser):
    """What is read on a page or aloud, without code, machine names and what says its
    own language."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[bool] = []
        self.read: list[str] = []

    def handle_starttag(self, tag, attrs):
        values = dict(attrs)
        is_verbatim = (
            tag in VERBATIM
            or "mono" in (values.get("class") or "").split()
            or (tag != "html" and "lang" in values)
        )
        if not is_verbatim:
            spoken = [v for k, v in attrs if k in SPOKEN or k.startswith("data-")]
            self.read += [value for value in spoken if value and " " in value]
            self.read += [value for key, value in attrs if key in SPOKEN and value]
        if tag not in VOID:
            self.open.append(is_verbatim)

    def handle_endtag(self, tag):
        if tag not in VOID and self.open:
            self.open.pop()

    def handle_data(self, text):
        if text.strip() and not any(self.open):
            self.read.append(text)


def english_in(page: str) -> list[str]:
    """Passages with a word of two Latin letters or more that is no known name."""
    reader = Reader()
    reader.feed(page)
    passages = [
        re.sub(
            r"“\w+”|https?://\S+|/[\w/]+|policy-\w+-\w+|[\w.-]*[_@{\"][\w.\"}]*",
            "",
            text,
        )
        for text in reader.read
    ]
    return [
        text.strip()
        for text in passages
        if set(re.findall(r"[A-Za-z]{2,}", text)) - set(NAMES.split())
    ]


@pytest.fixture
def kitchen(base):
    """A manager's project with something on every page, all of it in Chinese."""
    manager = make_user("厨师长", is_staff=True, is_superuser=True)
    project = make_project(
        base=base,
        slug="kitchen",
        name="厨房助手",
        guidelines="## 怎样更好\n\n先看是否**正确**，再看是否清楚。",
        members={manager: "manager", make_user("小红"): "reviewer"},
        settings={
            "ask_strength": True,
            "ask_reasons": ["正确", "清楚"],
            "criteria": ["有用", "无害"],
            "sampling": {"system_prompt": "请简短回答。"},
        },
    )
    for number in range(6):
        make_pair(comparison=comparison(project, number), annotator=manager)
    make_comparison_for_judging(project)
    make_judgment(comparison=comparison(project, 7), annotator=manager, verdict="tie")
    make_judgment(
        comparison=comparison(project, 8),
        annotator=manager,
        comment="两个都不错",
        undone_at=timezone.now(),
    )
    split = comparison(project, 10, quota=2)
    for who, verdict in (("小明", "first"), ("小刚", "both_bad")):
        make_judgment(
            comparison=split,
            annotator=make_user(who, project=project),
            verdict=verdict,
            strength=2,
            comment="没说时间",
        )
    decide(split)
    make_flag(project, manager, reason="会伤人", comparison=comparison(project, 11))
    unsound = make_pair(
        comparison=comparison(project, 9, "短。"), annotator=manager, state="unchecked"
    )
    assert unsound.kind == "judged"
    check_waiting()
    return project, manager


def comparison(project, number, text="", **fields):
    prompt = make_prompt(f"第{number}个问题：鸡蛋要煮几分钟？", project=project)
    first, second = (
        make_completion(
            text or f"水开以后转小火，再煮{minutes}分钟，然后马上放进凉水里冷却。",
            prompt=prompt,
        )
        for minutes in (6, 9)
    )
    return make_comparison(a=first, b=second, **fields)


def make_comparison_for_judging(project):
    messages = [
        {"role": "user", "content": "我想煎鸡蛋。"},
        {"role": "assistant", "content": "好的，先把锅烧热。"},
        {"role": "user", "content": "要煎多久？"},
    ]
    prompt = make_prompt(messages=messages, project=project)
    answers = [
        make_completion(text, prompt=prompt)
        for text in ("两面各煎**两分钟**。", "1. 放油\n2. 打蛋\n3. 煎三分钟")
    ]
    return make_comparison(a=answers[0], b=answers[1])


def read_in_chinese(client, user, path, status=200):
    client.force_login(user)
    response = client.get(path, headers={"Accept-Language": "zh-CN,zh;q=0.9"})
    assert response.status_code == status, path
    return response.content.decode()


PATHS = [
    "/",
    "/password/",
    "/preferences/",
    "/projects/new/",
    *(
        f"/projects/kitchen/{name}"
        for name in (
            "",
            "compare/",
            "history/",
            "prompts/",
            "members/",
            "settings/",
            "pairs/",
            "review/",
            "flagged/",
            "rules/",
            "quality/",
            "gold/",
            "import/",
            "export/",
            "rounds/",
            "policies/",
        )
    ),
]


def test_no_page_has_english_left_when_read_in_chinese(client, kitchen):
    project, manager = kitchen
    left = {}
    pairs = [f"/projects/kitchen/pairs/{pair.pk}/" for pair in project.pairs.all()]
    for path in [*PATHS, pairs[0], pairs[-1]]:
        page = read_in_chinese(client, manager, path)
        assert 'lang="zh-hans"' in page
        if english := english_in(page):
            left[path] = english
    assert not left


class Anything(dict):
    """Fills every field of a sentence."""

    def __missing__(self, name):
        return "8"


def running_round(project, manager):
    training_round = attempts.claim(start_round(project, manager).pk)
    rows = [
        {
            "step": step,
            "phase": "dpo",
            "loss": 0.69 - step / 100,
            "rewards/chosen": -step / 10,
            "rewards/rejected": -step / 4,
            "rewards/margins": step * 0.15,
            "rewards/accuracies": 0.5,
        }
        for step in range(1, 13)
    ]
    ingest.store_metrics(training_round, rows)
    # Each reason that a round may be told, under any names.
    settled = [
        settle(TrainingConfig("m", **given), 2_000_000, pairs)
        for given, pairs in [
            ({"sft_epochs": 1}, 89),
            ({"epochs": 2}, 3),
            ({"loss": "aot", "epochs": 2}, 12),
        ]
    ]
    whys = {why for one in settled for why in one.reasons.values()}
    TrainingRound.objects.filter(pk=training_round.pk).update(
        state="training",
        step=12,
        total_steps=40,
        eta_seconds=310,
        activity={"phase": "training", "done": 12, "of": 40},
        summary={
            "chosen": {str(n): {"value": 20.0, "why": w} for n, w in enumerate(whys)},
            "warnings": [
                {"code": code, "text": SENTENCES[code] % Anything()}
                for code in SENTENCES
            ],
        },
    )
    training_round.refresh_from_db()
    return training_round


def test_a_round_has_none_in_any_of_its_states(client, kitchen):
    project, manager = kitchen
    training_round = running_round(project, manager)
    left = {}
    path = f"/rounds/{training_round.pk}/"
    reason = (
        "The trainer was killed (9); out of memory is the usual reason."
        " This was attempt 3, the last one made by itself."
    )
    states = {
        "queued": {},
        "preparing": {"activity": {"phase": "reference", "done": 1, "of": 3}},
        "training": {"activity": {"phase": "training"}},
        "publishing": {},
        "succeeded": {"policy": make_policy(project=project, rank=16)},
        "cancelled": {"policy": None},
        "failed": {"error": reason},
    }
    for state, fields in states.items():
        finished = timezone.now() if state in ("succeeded", "failed") else None
        TrainingRound.objects.filter(pk=training_round.pk).update(
            state=state, finished_at=finished, **fields
        )
        training_round.events.create(
            epoch=1, state=state, detail=fields.get("error", "")
        )
        for page in (path, "/", "/projects/kitchen/rounds/"):
            if english := english_in(read_in_chinese(client, manager, page)):
                left[f"{page} {state}"] = english
    assert "内存不足" in read_in_chinese(client, manager, path)
    assert not left


def test_what_a_chinese_manager_did_is_told_in_english_to_others(client, kitchen):
    project, manager = kitchen
    client.force_login(manager)
    in_chinese, in_english = {"Accept-Language": "zh"}, {"Accept-Language": "en"}
    client.post("/projects/kitchen/rounds/", headers=in_chinese)
    training_round = TrainingRound.objects.get()
    client.post(f"/rounds/{training_round.pk}/cancel/", headers=in_chinese)
    details = list(training_round.events.values_list("detail", flat=True))
    assert details == [
        "6 pairs frozen, 0 of them replayed; 0 held out",
        "cancelled by 厨师长",
    ]
    page = client.get(f"/rounds/{training_round.pk}/", headers=in_english)
    assert "cancelled by 厨师长" in page.content.decode()
    page = read_in_chinese(client, manager, f"/rounds/{training_round.pk}/")
    assert "由厨师长取消" in page


def test_refused_pages_and_an_empty_site_have_none_either(client, kitchen):
    _project, manager = kitchen
    stranger = make_user("路人")
    assert not english_in(read_in_chinese(client, stranger, "/"))
    assert not english_in(read_in_chinese(client, manager, "/nothing/", 404))
    client.logout()
    page = client.get("/login/", headers={"Accept-Language": "zh"})
    assert not english_in(page.content.decode())


def test_what_is_wrong_with_what_was_sent_is_said_in_chinese(client, kitchen):
    project, manager = kitchen
    make_project(slug="empty", name="空", members={manager: "manager"})
    running_round(project, manager)
    client.force_login(manager)
    kitchen_at = "/projects/kitchen/"
    lines = (
        '{"prompt": ""}\n{oops\n[1]\n{"prompt": 3}\n{"prompt": "好", "messages": []}\n'
        '{"messages": [{"role": "assistant", "content": "好"}]}\n{"prompt": "\\u0000"}'
    )
    sent = {
        (kitchen_at + "import/", 200): {"text": lines},
        (kitchen_at + "gold/", 200): {"text": lines},
        (kitchen_at + "settings/", 422): {"name": "厨房", "sampling.temperature": "-1"},
        (kitchen_at + "rules/", 422): {"rules.similarity.max_ratio": "2"},
        (kitchen_at + "rules/preview/", 200): {"rules.chosen_width.min_columns": "500"},
        (kitchen_at + f"pairs/{project.pairs.last().pk}/let-through/", 422): {},
        (kitchen_at + f"pairs/{project.pairs.last().pk}/repair/", 422): {"chosen": ""},
        (kitchen_at + "members/", 422): {"username": "无此人", "role": "annotator"},
        (kitchen_at + "rounds/", 409): {"preset": "cumulative"},
        ("/projects/empty/rounds/", 422): {"preset": "cumulative"},
        ("/projects/new/", 422): {"name": "", "slug": "Not a slug"},
        ("/login/", 200): {"username": "甲", "password": "错"},
    }
    left = {}
    for (path, status), body in sent.items():
        answer = client.post(path, body, follow=True, headers={"Accept-Language": "zh"})
        assert answer.status_code == status, (path, answer.status_code)
        if english := english_in(answer.content.decode()):
            left[path] = english
    waiting = client.get("/projects/empty/compare/", headers={"Accept-Language": "zh"})
    left["waiting"] = english_in(waiting.content.decode())
    assert not {path: english for path, english in left.items() if english}


def test_english_is_found_where_it_stands():
    """In text, in what is read aloud and in what a script will say; not in names."""
    page = (
        '<html lang="zh-hans"><p>共3条 left</p><input placeholder="Why?">'
        '<div data-offline="No connection yet">Tiebreak <b class="mono">lora_r</b>'
        '<button lang="en">Sign in</button></div><i aria-label="较好">A</i></html>'
    )
    assert english_in(page) == ["共3条 left", "Why?", "No connection yet"]

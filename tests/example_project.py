"""A project in the middle of its work, with something to see on every page.

For pictures and for looking around by hand; `fill()` wants an empty, migrated database.
Who sees which pair is fixed: each of DESKS holds a lease on a pair of that kind.
"""

import json
import math
import random
from datetime import timedelta

from django.utils import timezone

from annotation import import_jobs
from annotation.models import Role
from annotation.rendering import render_markdown
from tests.acts import decide
from tests.factories import (
    judge_gold,
    make_comparison,
    make_completion,
    make_gold,
    make_judgment,
    make_lease,
    make_member,
    make_pair,
    make_policy,
    make_project,
    make_prompt,
    make_server,
    make_user,
)
from training import attempts, ingest
from training.models import TrainingRound
from training.rounds import start_round

PEOPLE = {
    "manager": Role.MANAGER,
    "reviewer": Role.REVIEWER,
    "annotator": Role.ANNOTATOR,
    "陈静": Role.ANNOTATOR,
    "omar": Role.ANNOTATOR,
}

CODE = (
    "How do I count the words of a file in Python?",
    """Read it line by line, so that a large file needs no memory:

```python
from collections import Counter
from pathlib import Path

def count_words(path: str) -> Counter[str]:
    \"\"\"How often each word occurs; upper and lower case are the same.\"\"\"
    counts: Counter[str] = Counter()
    with Path(path).open(encoding="utf-8") as lines:
        for line in lines:  # never the whole file at once
            counts.update(line.lower().split())
    return counts
```

| file | words | seconds |
|:--|--:|--:|
| `notes.txt` | 1,204 | 0.01 |
| `wiki.txt` | 48,310,992 | 6.9 |

- [x] works for any size
- [ ] strips punctuation[^1]

[^1]: `re.findall(r"\\w+", line)` instead of `split()` would.
""",
    """Read the whole file and split it:

```python
def count_words(path):
    text = open(path).read()
    return len(text.split())
```

This returns **one number**. For a large file it needs as much memory as the file is long.
""",
)
FORMULAS = (
    "Why does DPO need no reward model?",
    r"""The best policy under a KL penalty is known in closed form,

$$
\pi^*(y\mid x)=\frac{1}{Z(x)}\,\pi_{\mathrm{ref}}(y\mid x)\,\exp\!\left(\tfrac{1}{\beta}r(x,y)\right),
$$

so the reward is $r(x,y)=\beta\log\frac{\pi^*(y\mid x)}{\pi_{\mathrm{ref}}(y\mid x)}+\beta\log Z(x)$.
In the Bradley–Terry model only differences count and $\log Z(x)$ cancels:

$$
\begin{aligned}
p(y_w\succ y_l) &= \sigma\big(r(x,y_w)-r(x,y_l)\big)\\
&= \sigma\!\left(\beta\log\frac{\pi^*(y_w\mid x)}{\pi_{\mathrm{ref}}(y_w\mid x)}-\beta\log\frac{\pi^*(y_l\mid x)}{\pi_{\mathrm{ref}}(y_l\mid x)}\right)
\end{aligned}
$$

It runs on one GPU for about \$2 an hour, not \$5 or $10.
""",
    r"""Because the policy *is* the reward model. Its loss is

\[
\mathcal{L}(\theta)=-\mathbb{E}\left[\log\sigma\big(\beta\,\Delta_\theta\big)\right],
\qquad
\Delta_\theta=\log\frac{\pi_\theta(y_w)}{\pi_{\mathrm{ref}}(y_w)}-\log\frac{\pi_\theta(y_l)}{\pi_{\mathrm{ref}}(y_l)}
\]

and its gradient pushes the two log-probabilities apart, most where the pair is wrong:

| $\Delta$ | weight $\sigma(-\beta\Delta)$ |
|--:|--:|
| $-20$ | $0.88$ |
| $0$ | $0.50$ |
| $20$ | $0.12$ |
""",
)
ARABIC = (
    "اشرح الفرق بين القائمة والمجموعة في Python.",
    """Python فيها بنيتان متشابهتان:

1. **القائمة** `list` تحفظ الترتيب وتقبل التكرار.
2. **المجموعة** `set` لا تحفظ الترتيب ولا تقبل التكرار.

```python
names = ["علي", "سارة", "علي"]
print(len(set(names)))  # 2
```

> للبحث السريع استعمل المجموعة.

| العملية | list | set |
|---|---|---|
| البحث | $O(n)$ | $O(1)$ |
| الإضافة | $O(1)$ | $O(1)$ |
""",
    """القائمة مرتبة، والمجموعة غير مرتبة.

The English words *list* and *set* are the names of the types.

- أضف إلى القائمة بالأمر `append`
- أضف إلى المجموعة بالأمر `add`
""",
)
CHINESE = (
    "煮溏心蛋要几分钟？",
    """水开后把鸡蛋轻轻放进锅里，**“中火六分半”**最稳妥，然后立刻放进冰水。

1. 鸡蛋提前从冰箱取出
2. 水开后下锅，计时六分半钟
3. 冰水里泡三分钟再剥壳

| 时间 | 蛋黄 |
|---|---|
| 5 分钟 | 流动 |
| 6 分半 | 溏心 |
| 10 分钟 | 全熟 |

海拔每升高 300 m，水的沸点约降低 1℃，时间*略微*延长。
""",
    """水开后煮六分钟，再放进冰水。

1. 鸡蛋提前从冰箱取出
2. 水开后下锅，计时六分钟
3. 冰水里泡一分钟再剥壳
""",
)
DESKS = {"code": CODE, "formulas": FORMULAS, "arabic": ARABIC, "chinese": CHINESE}

SHORT = [
    (
        "How long do I boil an egg?",
        "Six minutes, then *cold* water.",
        "Until it is done.",
    ),
    ("Name three uses of vinegar.", "- dressing\n- descaling\n- pickling", "Salad."),
    ("怎样去掉衣服上的茶渍？", "用冷水冲，再用小苏打搓。", "用热水洗。"),
    ("Translate “good morning” into Arabic.", "صباح الخير", "Sabah"),
    ("What is 17 × 23?", "$17\\times 23 = 391$", "About 400."),
]
GUIDELINES = """Prefer the answer you would send to a colleague.

- **Right** beats *well said*.
- Length is no merit: a short answer that is enough wins.
- Code must run as it stands, e.g. `python -m pytest`.
"""


def fill() -> None:
    """Everything, the same each time but for dates."""
    users = {name: make_user(name) for name in PEOPLE}
    project = make_project(
        slug="study-helper",
        name="Study helper · 学习助手",
        guidelines=GUIDELINES,
        settings={
            "ask_strength": True,
            "ask_reasons": ["correct", "clear", "complete", "well written"],
            # So seldom that none comes: each desk below shows what it is meant to.
            "gold_rate": 1e-9,
        },
        members={users[name]: role for name, role in PEOPLE.items()},
    )
    users["manager"].is_staff = True
    users["manager"].save()
    make_project(slug="empty", name="Letters", members={users["manager"]: Role.MANAGER})
    _judged(project, users)
    _looked_after(project, users)
    _trained(project, users["manager"])
    for name, texts in DESKS.items():
        who = make_user(name)
        make_member(project, who)
        pair = _comparison(project, *texts, quota=2)
        make_judgment(project=project, annotator=who)
        make_lease(comparison=pair, annotator=who)
    make_server(base=project.base, heartbeat_at=timezone.now() + timedelta(days=1))


def _comparison(project, question: str, first: str, second: str, **fields):
    prompt = make_prompt(question, project=project)
    a, b = (
        make_completion(text, prompt=prompt, html=render_markdown(text))
        for text in (first, second)
    )
    return make_comparison(a=a, b=b, **fields)


def _judged(project, users) -> None:
    """Judgments of three people, pairs of every state, two rules that reject."""
    chance = random.Random(7)
    people = [users[name] for name in ("annotator", "陈静", "omar")]
    for number in range(24):
        question, good, poor = SHORT[number % len(SHORT)]
        texts = (good, poor) if number % 2 else (poor, good)
        shared = _comparison(
            project, f"{question} ({number + 1})", *texts, quota=len(people)
        )
        best = shared.a if number % 2 else shared.b
        # Some pairs are hard: there people agree less.
        sure = 0.93 if number % 3 else 0.6
        for person in people:
            shown = chance.sample([shared.a, shared.b], 2)
            better = "first" if shown[0] == best else "second"
            worse = "first" if better == "second" else "second"
            wrong = chance.choice([worse, "tie", "tie"])
            make_judgment(
                lease=make_lease(
                    comparison=shared, annotator=person, first=shown[0], second=shown[1]
                ),
                verdict=better if chance.random() < sure else wrong,
                seconds=round(chance.uniform(3, 30), 1),
                comment="Runs as it stands." if number % 9 == 0 else "",
                reasons=["correct"] if number % 4 == 0 else [],
            )
    for number in range(12):
        question, good, poor = SHORT[number % len(SHORT)]
        comparison = _comparison(
            project, f"{question} (again, {number + 1})", good, poor
        )
        # One of them in a hurry.
        judgment = make_judgment(
            comparison=comparison,
            annotator=people[number % 3],
            seconds=0.3 if number == 2 else 4.2,
        )
        state = ("accepted", "accepted", "rejected")[number % 3]
        pair = make_pair(judgment=judgment, state=state)
        if state == "rejected":
            pair.verdicts.create(rule="similarity", result="reject", reason="0.96")
    for question, good, poor in SHORT:
        _comparison(project, f"{question} (next)", good, poor)


def _looked_after(project, users) -> None:
    """What reviewers and managers have to see to: a split, a flag, gold, a file."""
    for number in range(3):
        question, good, poor = SHORT[number]
        split = _comparison(project, f"{question} (split)", good, poor, quota=2)
        for name, verdict in (("annotator", "first"), ("omar", "second")):
            lease = make_lease(
                comparison=split, annotator=users[name], first=split.a, second=split.b
            )
            make_judgment(
                lease=lease, verdict=verdict, strength=1, comment="It was close."
            )
        decide(split)
    for flag, reason in (("unsafe", "It gives a dose."), ("broken", "")):
        flagged = _comparison(project, f"{SHORT[0][0]} ({flag})", *SHORT[0][1:])
        make_lease(
            comparison=flagged,
            annotator=users["omar"],
            outcome="skipped",
            flag=flag,
            skip_reason=reason,
            ended_at=timezone.now(),
        )
    for number in range(3):
        question, good, poor = SHORT[number]
        known = _comparison(project, f"{question} (known)", good, poor)
        gold = make_gold(
            a=known.a, b=known.b, author=users["manager"], explanation="It is complete."
        )
        for name in ("annotator", "陈静"):
            judge_gold(users[name], gold, is_right=bool(number))
    rows = [{"prompt": q, "chosen": good, "rejected": poor} for q, good, poor in SHORT]
    lines = "\n".join(json.dumps(row, ensure_ascii=False) for row in rows)
    import_jobs.receive_text(project, users["manager"], lines)


def _trained(project, manager) -> None:
    """One round that gave the serving policy, and one that runs."""
    done = attempts.claim(start_round(project, manager).pk)
    _metrics(done, 40)
    policy = make_policy(project=project, number=1)
    now = timezone.now()
    TrainingRound.objects.filter(pk=done.pk).update(
        state="succeeded",
        step=40,
        total_steps=40,
        policy=policy,
        started_at=now - timedelta(minutes=30),
        finished_at=now - timedelta(minutes=12),
    )
    project.channel.serving = policy
    project.channel.save()
    for number in range(4):
        question, good, poor = SHORT[number]
        comparison = _comparison(project, f"{question} (new)", good, poor)
        make_pair(comparison=comparison, annotator=manager)
    running = attempts.claim(start_round(project, manager).pk)
    _metrics(running, 26)
    TrainingRound.objects.filter(pk=running.pk).update(
        state="training",
        step=26,
        total_steps=40,
        eta_seconds=31,
        heartbeat_at=timezone.now() + timedelta(days=1),
        progress_at=timezone.now() + timedelta(days=1),
        activity={"phase": "training", "done": 26, "of": 40},
    )


def _metrics(training_round, steps: int) -> None:
    chance = random.Random(training_round.pk)
    rows = []
    for step in range(1, steps + 1):
        margin = 0.05 * step + chance.gauss(0, 0.12)
        rows.append(
            {
                "step": step,
                "loss": math.log1p(math.exp(-margin)),
                "rewards/chosen": -0.01 * step + chance.gauss(0, 0.06),
                "rewards/rejected": -0.01 * step - margin,
                "rewards/margins": margin,
                "rewards/accuracies": min(1.0, 0.5 + step / 70 + chance.gauss(0, 0.05)),
                "grad_norm": 2.0 * math.exp(-step / 30),
                "learning_rate": 5e-5 * (1 - step / 60),
            }
        )
    ingest.store_metrics(training_round, rows)

"""A newcomer's own project on the starter: its first round, as its settings have it.

Everything is real but vLLM and the pages: the whole starter, answers sampled from it, the
rules, the round's config, the trainer. transformers samples.
"""

import random
import re

import peft
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from annotation.project_settings import of
from annotation.projects import create_project
from annotation.validation import PairFacts, check, state_of
from inference.demo_prompts import demo_prompts
from inference.starter.build import build
from inference.starter.chats import write_chats
from inference.starter.tastes import TASTES, WANTED
from tests.factories import make_user
from tests.training.dpo.runs import chat, train_here, write_run
from training.recipes import resolve
from training.simulation import verdict_of

PAIRS = 32
"""One an update, so 192 updates: with the defaults two answers in five broke."""
MEASURED = demo_prompts()[:46]
JUDGED = demo_prompts()[46:]
SENTENCE_ENDS = re.compile(r"(?<=[.!?。！？:：])\s*|\n+")


def sampled(model, tokenizer, prompts, sampling):
    """An answer to each prompt, and whether it came to its end."""
    asked = tokenizer.apply_chat_template(
        [[{"role": "user", "content": prompt}] for prompt in prompts],
        add_generation_prompt=True,
        padding=True,
        return_dict=True,
        return_tensors="pt",
    )
    written = model.generate(
        **asked,
        do_sample=True,
        temperature=sampling["temperature"],
        top_p=sampling["top_p"],
        max_new_tokens=sampling["max_tokens"],
    )[:, asked["input_ids"].shape[1] :]
    texts = tokenizer.batch_decode(written, skip_special_tokens=True)
    return [
        (text, bool((row == tokenizer.eos_token_id).any()))
        for text, row in zip(texts, written, strict=True)
    ]


def sentences(text):
    """Lower case, without the numbers of a list."""
    unnumbered = re.sub(r"^\s*\d+\.\s*", "", text, flags=re.MULTILINE)
    parts = SENTENCE_ENDS.split(unnumbered.lower())
    return [part.strip() for part in parts if part.strip()]


def figures(model, tokenizer, sampling, known):
    """The share of short answers, and of those made of whole sentences alone."""
    torch.manual_seed(1)
    answers = sampled(model, tokenizer, [p for p in MEASURED for _ in "1234"], sampling)
    texts = [text for text, _ in answers]
    whole = [known.issuperset(sentences(text)) for text in texts]
    return (
        sum(map(WANTED["short"], texts)) / len(texts),
        sum(whole) / len(whole),
    )


@pytest.mark.long
@pytest.mark.django_db
def test_the_first_round_of_a_new_project_teaches_the_taste_and_breaks_no_sentences(
    settings, tmp_path
):
    """Before, so many broke that the policy's texts were worse than the base's."""
    base = tmp_path / "starter"
    build(base)
    settings.MODEL = str(base)
    project = create_project("Mine", make_user())
    sampling, rules = of(project).sampling, of(project).rules
    tokenizer = AutoTokenizer.from_pretrained(base, padding_side="left")
    model = AutoModelForCausalLM.from_pretrained(base)
    known = {
        sentence
        for written in write_chats(7, 300)
        for message in written
        for sentence in sentences(message["content"])
    }

    torch.manual_seed(0)
    rng, pairs = random.Random(0), []
    while len(pairs) < PAIRS:
        prompts = [prompt for prompt in rng.sample(JUDGED, 92) for _ in "ab"]
        answers = sampled(model, tokenizer, prompts, sampling)
        for i in range(0, len(prompts), 2):
            a, b = answers[i : i + 2]
            verdict = verdict_of(TASTES["short"], a[0], b[0], rng)
            better, worse = (a, b) if verdict == "first" else (b, a)
            facts = PairFacts(
                better[0],
                worse[0],
                chosen_finish="stop" if better[1] else "length",
                rejected_finish="stop" if worse[1] else "length",
            )
            if verdict != "tie" and state_of(check(facts, rules)) == "accepted":
                pairs.append(chat(prompts[i], better[0], worse[0]))

    recipe = resolve(project)
    run = write_run(
        tmp_path / "run",
        base,
        pairs[:PAIRS],
        reference=recipe.reference,
        **{"lora": {}} | recipe.config,
    )
    train_here(run)

    short, whole = figures(model, tokenizer, sampling, known)
    policy = peft.PeftModel.from_pretrained(model, run / "adapter").merge_and_unload()
    short_now, whole_now = figures(policy, tokenizer, sampling, known)
    assert short_now > short + 0.15, (short, short_now)
    assert whole_now > max(0.7, whole - 0.2), (whole, whole_now)

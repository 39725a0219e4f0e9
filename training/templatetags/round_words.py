"""Words and figures of rounds and policies for templates."""

import json
from typing import Any

from django import template
from django.utils.translation import gettext as _
from django.utils.translation import gettext_noop

from training.models import TrainingRound
from training.queries import is_number

register = template.Library()

BADGES = {
    "succeeded": "good",
    "serving": "good",
    "failed": "bad",
    "rejected": "bad",
    "cancelled": "warn",
    "candidate": "warn",
}


SETTLED = (
    gettext_noop("given"),
    gettext_noop("usual for LoRA on a model of %(size)s million weights"),
    gettext_noop(
        "usual for supervised training with LoRA on a model of %(size)s million weights"
    ),
    gettext_noop(
        "%(pairs)s pairs: few pairs are seen more often, for at least %(updates)s updates"
        " where %(epochs)s epochs allow it"
    ),
    gettext_noop(
        "the largest power of two that leaves at least %(least)s updates; it makes"
        " %(updates)s"
    ),
    gettext_noop(
        "one pair an update, as even that makes fewer than %(least)s: %(updates)s"
    ),
    gettext_noop(
        "at least %(batch)s, as this loss compares what a step holds; it makes"
        " %(updates)s updates"
    ),
)
"""Why training/dpo/defaults.py chose a figure; told again by `retold`."""


TRAINER_WARNINGS = (
    gettext_noop(
        "beta %(value)s is unusual for the loss %(loss)s, where runs use %(low)s to "
        "%(high)s: make sure that it is meant."
    ),
    gettext_noop(
        "%(name)s %(value)s is unusual for %(tuning)s on a model of %(size)s "
        "million weights (%(low)s to %(high)s): too high a rate spoils the model, too"
        " low a one leaves it as it was; without the key one is chosen."
    ),
    gettext_noop(
        "With tuning full there is no adapter, and %(names)s does nothing: leave it "
        "out, or set tuning to lora."
    ),
    gettext_noop(
        "Few pairs to train on: %(count)s; below %(least)s a policy moves unsurely: "
        "judge more pairs before trusting the result."
    ),
    gettext_noop(
        "Few updates: %(count)s; below %(least)s a policy hardly moves: lower "
        "batch_size or raise epochs."
    ),
    gettext_noop(
        "Few updates of supervised training: %(count)s; below %(least)s a policy "
        "hardly moves: lower batch_size or raise sft_epochs."
    ),
    gettext_noop(
        "%(count)s of %(read)s rows of %(file)s lose the end of an answer at "
        "max_length %(most)s: raise it."
    ),
    gettext_noop(
        "%(count)s of %(read)s rows of %(file)s are dropped: preflight.json has the "
        "reasons and the lines."
    ),
    gettext_noop(
        "%(count)s rows have more than the %(positions)s tokens that the model was made"
        " for (the longest: line %(line)s of %(file)s, %(tokens)s): what it says beyond"
        " them is unsure. Set max_length to %(positions)s, or give the model rope"
        " scaling."
    ),
    gettext_noop(
        "Pairs whose chosen and rejected answers have the same tokens: %(count)s "
        "(lines: %(lines)s). They teach nothing; remove them."
    ),
    gettext_noop(
        "Rows that repeat an earlier one: %(count)s (lines: %(lines)s). If that is "
        "not meant, remove them; to count a row more, give it a weight."
    ),
    gettext_noop(
        "Rows that say the opposite of an earlier one: %(count)s (lines: %(lines)s)."
        " They cancel each other out; keep one verdict, or none."
    ),
    gettext_noop(
        "All labelled answers, %(count)s, have the label %(label)s: such a loss weighs "
        "good answers against bad ones, and with one kind alone it only pushes one way."
        " Add some of the other kind, or train on pairs."
    ),
    gettext_noop(
        "Held-out pairs whose prompt also trains: %(count)s (lines of held_out.jsonl:"
        " %(lines)s). Their figures look better than on new prompts; hold out whole "
        "prompts."
    ),
    gettext_noop(
        "The run needs about %(needed)s of the %(there)s of memory: if it is killed,"
        " set micro_batch_size to 1 and savings.side_by_side to false and resume, or"
        " lower max_length in a fresh run folder."
    ),
    gettext_noop(
        "At step %(step)s of %(total)s the loss is still %(loss)s and the margin "
        "%(margin)s: the policy has learned next to nothing. Usual causes: too low a "
        "learning rate (%(rate)s), too large a batch, pairs whose answers are nearly "
        "the same, or an adapter that no gradient reaches (grad_norm %(norm)s)."
    ),
    gettext_noop(
        "The policy moves away from both answers: a token of a chosen answer is now "
        "%(chosen)s times as likely as at the start, of a rejected one %(rejected)s "
        'times. A loss that holds the chosen ones helps ({"sigmoid": 1, "sft": 0.2} '
        "or apo_zero), so do a larger beta and fewer epochs."
    ),
    gettext_noop(
        "The mean margin is %(margin)s with %(accuracy)s %% of the pairs right: "
        "hardly any gradient is left, and further steps only push the answers apart. "
        "Take fewer epochs or a lower learning rate."
    ),
    gettext_noop(
        "The held-out loss was lowest at step %(best)s (%(least)s) and is %(now)s at "
        "step %(step)s, while the training loss went on falling: pairs are being "
        "learned by heart. Fewer epochs (about %(epochs)s), a lower learning rate or "
        "more pairs help."
    ),
    gettext_noop(
        "On held-out pairs the accuracy fell from %(before)s %% to %(now)s %%, more "
        "than chance explains: the training pairs may contradict them or be learned "
        "by heart."
    ),
    gettext_noop(
        "The policy may write broken sentences, however good accuracy and drift look:"
        " read some of its answers before people get them. Fewer epochs, a lower learning"
        ' rate or a loss that holds the chosen answers ({"sigmoid": 1, "sft": 1}) helps.'
        " Measured along held-out chosen answers: %(policy)s %% of its probability goes"
        " to tokens that the base all but never writes there (of the base's own:"
        " %(base)s %%)."
    ),
)
"""What training/dpo/guardrails.py warns of, but for what the curves' remarks say."""


TRAINER_ENDS = (
    gettext_noop("An unforeseen error, in its own words: “%(words)s”."),
    gettext_noop(
        "Out of memory: set micro_batch_size to 1 and savings.side_by_side to false and"
        " resume, or lower max_length in a fresh run folder."
    ),
    gettext_noop(
        "Out of memory on the GPU: set micro_batch_size to 1 and savings.checkpointing to"
        " true and resume, or lower max_length in a fresh run folder."
    ),
    gettext_noop("The disk is full; free some space and resume."),
    gettext_noop(
        "The disk has %(free)s free, but the run wants about %(wanted)s (checkpoints"
        " %(checkpoints)s): free some space."
    ),
    gettext_noop(
        "The disk is too full for a checkpoint: %(free)s free, %(wanted)s wanted; free"
        " some space and resume."
    ),
    gettext_noop(
        "The disk is too full for the adapter and the other outputs: %(free)s free, about"
        " %(wanted)s wanted; free some space and start the same command again: training"
        " is done and kept."
    ),
    gettext_noop(
        "The checkpoint of step %(step)s could not be written (%(why)s); free some disk"
        " space and resume."
    ),
    gettext_noop(
        "The %(what)s of step %(step)s is not a finite number; nothing of that step was"
        " kept. Pairs: %(pairs)s; learning rate of the step %(rate)s, gradient norm"
        " %(norm)s, %(moved)s. Lower %(key)s (now %(now)s), say to a third, and start the"
        " same command again: %(again)s; if that fails too, take a fresh run folder,"
        " float32 as dtype, or these pairs out."
    ),
    gettext_noop("gradient"),
    gettext_noop("no log-ratio to the base is finite: the weights have run away"),
    gettext_noop(
        "largest |log-ratio| to the base %(most)s per token: the weights had not moved"
        " far, so look at these pairs first"
    ),
    gettext_noop(
        "largest |log-ratio| to the base %(most)s per token: the weights have run away"
    ),
    gettext_noop("it begins again"),
    gettext_noop("it goes on from step %(step)s"),
    gettext_noop("pairs.jsonl holds no pair to train on (%(rows)s rows)."),
    gettext_noop(
        "pairs.jsonl holds no pair to train on (%(rows)s rows, dropped %(why)s)."
    ),
    gettext_noop('config.json: "base_model": there is no folder "%(folder)s".'),
    gettext_noop(
        'The model of base_model "%(model)s" could not be loaded (%(why)s); give a model'
        " folder or a hub id."
    ),
    gettext_noop(
        'The tokenizer of base_model "%(model)s" could not be loaded (%(why)s); give a'
        " model folder or a hub id."
    ),
    gettext_noop(
        'The weights of base_model "%(model)s" lack %(count)s of those that its'
        " config.json asks for, such as %(name)s: take both from one model."
    ),
    gettext_noop(
        "Log-probs under the base model, with the adapter at the start, are no finite"
        " numbers: its weights are damaged, or too large for the dtype. Fetch base_model"
        " (and parent_adapter) anew, or set dtype to float32."
    ),
    gettext_noop(
        'config.json: "parent_adapter" %(folder)s has no %(file)s; give a folder saved by'
        " PEFT as safetensors."
    ),
    gettext_noop(
        'config.json: "parent_adapter" %(folder)s does not fit the base model: %(why)s'
    ),
    gettext_noop(
        "The checkpoint %(name)s belongs to another config, other pairs or another model."
        " What differs: %(keys)s. Use a fresh run folder or put that back as it was."
    ),
    gettext_noop(
        'config.json: "%(key)s" is now %(now)s, but its steps are done, with %(then)s. Use a'
        " fresh run folder to train with another, or put that back as it was."
    ),
    gettext_noop(
        "The checkpoint %(name)s was written by an earlier version of the trainer; use a"
        " fresh run folder, or start a new round."
    ),
    gettext_noop("stopped after step %(step)s of %(total)s"),
    gettext_noop(
        "another process of the run was lost, which process %(rank)s noticed; start it"
        " again to go on from the newest checkpoint"
    ),
)
"""The usual reasons that status.json gives for an end, from all over training/dpo/."""


@register.filter
def badge(state: str) -> str:
    """The CSS class that goes with a state of a round or policy."""
    return BADGES.get(state, "")


@register.filter
def state_words(state: str) -> str:
    """A policy's state for people."""
    return {
        "serving": _("serving"),
        "candidate": _("candidate"),
        "retired": _("served before"),
        "rejected": _("rejected"),
    }.get(state, state)


@register.filter
def round_state(state: str) -> str:
    """A round's state for people, wherever it was written down."""
    return str(dict(TrainingRound.State.choices).get(state, state))


@register.filter
def duration(seconds: float | None) -> str:
    """Seconds as a person would say them: 45 s, 3 min, 2 h 5 min."""
    if seconds is None:
        return ""
    whole = max(0, round(seconds))
    if whole < 90:
        return _("%(seconds)d s") % {"seconds": whole}
    minutes = round(whole / 60)
    if minutes < 90:
        return _("%(minutes)d min") % {"minutes": minutes}
    return _("%(hours)d h %(minutes)d min") % {
        "hours": minutes // 60,
        "minutes": minutes % 60,
    }


@register.filter
def figure(value: Any) -> str:
    """A metric with four significant digits; a dash where there is none."""
    return f"{value:.4g}" if is_number(value) else "–"


@register.filter
def as_given(value: Any) -> str:
    """A setting of the trainer as config.json and the API take it; a text as it is."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


@register.filter
def between(start: Any, end: Any) -> str:
    """The time from one moment to another, in words."""
    return duration((end - start).total_seconds()) if start and end else ""


@register.filter
def activity_words(activity: dict) -> str:
    """What the trainer is at, for people."""
    phase = activity.get("phase", "")
    words = {
        "loading": _("Loading the model"),
        "reading": _("Reading the pairs"),
        "reference": _("Measuring the reference"),
        "measuring": _("Measuring a few steps"),
        "evaluating": _("Measuring the held-out pairs"),
        "sft": _("Supervised training"),
        "training": _("Training"),
        "scoring": _("Scoring the pairs"),
        "saving": _("Saving the adapter"),
        "done": _("Finishing"),
    }.get(phase, phase)
    done, of = activity.get("done"), activity.get("of")
    if (
        phase not in ("", "sft", "training")
        and is_number(done)
        and is_number(of)
        and of
    ):
        return f"{words}: {done} / {of}"
    return words

"""What a run warns of, before it trains and from its curves, each with what to do.

Pure: configs, pairs and rows of metrics in, cautions out; the limits and the sentences
are tables. A caution never stops a run. Leaves out who says them and when; see
`preflight.py` and `watch.py`.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

from training.dpo.config import LoraConfig, TrainingConfig, loss_weights
from training.dpo.data import Answer, Pair, RowReport, prompts_of
from training.dpo.defaults import Settled, usual_rate, usual_sft_rate
from training.dpo.loss_facts import LOSS_FACTS


class Limit(NamedTuple):
    """A figure beyond which something is said, and why that one."""

    value: float
    why: str


LIMITS = {
    "least_pairs": Limit(15, "with fewer, trials on the starter moved it unsurely"),
    "least_updates": Limit(
        50, "60 updates on 19 pairs changed 3 % of the answers, 114 changed 35 %"
    ),
    "least_held_out": Limit(
        30, "at 50 % right, 95 % of samples of n = 30 lie within 18 points"
    ),
    "cut_share": Limit(0.05, "one in twenty answers without its end teaches ends"),
    "dropped_share": Limit(0.05, "one row in twenty is no longer an oddity"),
    "rate_factor": Limit(10, "published LoRA and full rates lie within 10 of ours"),
    "memory_share": Limit(0.9, "the rest is wanted by the system and by fragmentation"),
    "stuck_share": Limit(0.3, "by then the rate has been at its height for a while"),
    "stuck_steps": Limit(20, "means of fewer steps scatter too much to judge"),
    "stuck_margin": Limit(0.02, "moves the sigmoid loss by 0.01 from ln 2"),
    "stuck_log_ratio": Limit(
        0.2, "nats between the answers, for losses that are no −log σ of the margin"
    ),
    "lost_log_ratio": Limit(
        0.3, "nats a token: a chosen token is a quarter less likely than before"
    ),
    "saturated_margin": Limit(
        8, "the sigmoid's slope is then 1/3000 of what it was at the start"
    ),
    "overfit_rise": Limit(
        0.05,
        "of the held-out loss above its lowest; evaluations of 30 prompts differ by less",
    ),
    "unlikely_times": Limit(
        4,
        "of 39 runs on the starter those that broke had 5 and more, none sound 3.4",
    ),
    "unlikely_more": Limit(
        0.005, "of the tokens; so few may break one answer of 40 tokens in five"
    ),
}

LOG_SIGMOID = {"sigmoid", "robust", "exo_pair", "bco_pair", "sigmoid_norm", "aot"}
"""Losses that flatten out as −log σ of the margin does."""

RATE_UNUSUAL = (
    "%(name)s %(value)s is unusual for %(tuning)s on a model of %(size)s million weights"
    " (%(low)s to %(high)s): too high a rate spoils the model, too low a one leaves it as"
    " it was; without the key one is chosen."
)

SENTENCES = {
    "beta_unusual": (
        "beta %(value)s is unusual for the loss %(loss)s, where runs use %(low)s to"
        " %(high)s: make sure that it is meant."
    ),
    "learning_rate_unusual": RATE_UNUSUAL,
    "sft_learning_rate_unusual": RATE_UNUSUAL,
    "lora_unused": (
        "With tuning full there is no adapter, and %(names)s does nothing: leave it out,"
        " or set tuning to lora."
    ),
    "few_pairs": (
        "Few pairs to train on: %(count)s; below %(least)s a policy moves unsurely: judge"
        " more pairs before trusting the result."
    ),
    "few_updates": (
        "Few updates: %(count)s; below %(least)s a policy hardly moves: lower batch_size or"
        " raise epochs."
    ),
    "few_sft_updates": (
        "Few updates of supervised training: %(count)s; below %(least)s a policy hardly"
        " moves: lower batch_size or raise sft_epochs."
    ),
    "no_held_out": (
        "There is no pair in held_out.jsonl, so all figures come from pairs that train"
        " and say nothing of others: put pairs of other prompts there."
    ),
    "few_held_out": (
        "Few held-out prompts: %(count)s; an accuracy on so few is uncertain by some"
        " %(points)s percentage points either way: hold out more."
    ),
    "many_cut": (
        "%(count)s of %(read)s rows of %(file)s lose the end of an answer at max_length"
        " %(most)s: raise it."
    ),
    "many_dropped": (
        "%(count)s of %(read)s rows of %(file)s are dropped: preflight.json has the"
        " reasons and the lines."
    ),
    "beyond_positions": (
        "%(count)s rows have more than the %(positions)s tokens that the model was made for"
        " (the longest: line %(line)s of %(file)s, %(tokens)s): what it says beyond them is"
        " unsure. Set max_length to %(positions)s, or give the model rope scaling."
    ),
    "identical_answers": (
        "Pairs whose chosen and rejected answers have the same tokens: %(count)s"
        " (lines: %(lines)s). They teach nothing; remove them."
    ),
    "duplicates": (
        "Rows that repeat an earlier one: %(count)s (lines: %(lines)s). If that is not meant,"
        " remove them; to count a row more, give it a weight."
    ),
    "contradictions": (
        "Rows that say the opposite of an earlier one: %(count)s (lines: %(lines)s). They cancel"
        " each other out; keep one verdict, or none."
    ),
    "one_label": (
        "All labelled answers, %(count)s, have the label %(label)s: such a loss weighs good"
        " answers against bad ones, and with one kind alone it only pushes one way. Add"
        " some of the other kind, or train on pairs."
    ),
    "held_out_leak": (
        "Held-out pairs whose prompt also trains: %(count)s (lines of held_out.jsonl: %(lines)s)."
        " Their figures look better than on new prompts; hold out whole prompts."
    ),
    "memory": (
        "The run needs about %(needed)s of the %(there)s of memory: if it is killed, set"
        " micro_batch_size to 1 and savings.side_by_side to false and resume, or lower"
        " max_length in a fresh run folder."
    ),
    "stuck": (
        "At step %(step)s of %(total)s the loss is still %(loss)s and the margin"
        " %(margin)s: the policy has learned next to nothing. Usual causes: too low a"
        " learning rate (%(rate)s), too large a batch, pairs whose answers are nearly"
        " the same, or an adapter that no gradient reaches (grad_norm %(norm)s)."
    ),
    "displacement": (
        "The policy moves away from both answers: a token of a chosen answer is now"
        " %(chosen)s times as likely as at the start, of a rejected one %(rejected)s"
        ' times. A loss that holds the chosen ones helps ({"sigmoid": 1, "sft": 0.2} or'
        " apo_zero), so do a larger beta and fewer epochs."
    ),
    "saturated": (
        "The mean margin is %(margin)s with %(accuracy)s %% of the pairs right: hardly"
        " any gradient is left, and further steps only push the answers apart. Take"
        " fewer epochs or a lower learning rate."
    ),
    "overfit": (
        "The held-out loss was lowest at step %(best)s (%(least)s) and is %(now)s at step"
        " %(step)s, while the training loss went on falling: pairs are being learned by"
        " heart. Fewer epochs (about %(epochs)s), a lower learning rate or more pairs"
        " help."
    ),
    "held_out_worse": (
        "On held-out pairs the accuracy fell from %(before)s %% to %(now)s %%, more than"
        " chance explains: the training pairs may contradict them or be learned by"
        " heart."
    ),
    "unlikely_tokens": (
        "The policy may write broken sentences, however good accuracy and drift look:"
        " read some of its answers before people get them. Fewer epochs, a lower learning"
        ' rate or a loss that holds the chosen answers ({"sigmoid": 1, "sft": 1}) helps.'
        " Measured along held-out chosen answers: %(policy)s %% of its probability goes"
        " to tokens that the base all but never writes there (of the base's own:"
        " %(base)s %%)."
    ),
}
"""%-patterns, so that a page may tell them in another language."""


@dataclass(frozen=True)
class Caution:
    """`code` is a key of SENTENCES, `values` fill the sentence."""

    code: str
    values: Mapping[str, Any]

    @property
    def text(self) -> str:
        return SENTENCES[self.code] % self.values

    def as_dict(self) -> dict[str, str]:
        return {"code": self.code, "text": self.text}


def config_cautions(
    config: TrainingConfig, settled: Settled, parameters: int
) -> list[Caution]:
    """Beta and learning rate outside the usual range, settings that do nothing.

    `parameters`: the base's.
    """
    found = []
    for name in loss_weights(config):
        usual = LOSS_FACTS[name].beta
        if usual is not None and not usual[0] <= config.beta <= usual[1]:
            values = {"value": f"{config.beta:g}", "loss": name}
            values |= {"low": f"{usual[0]:g}", "high": f"{usual[1]:g}"}
            found.append(Caution("beta_unusual", values))
    factor = LIMITS["rate_factor"].value
    usual_rates = {"learning_rate": usual_rate(config.tuning, parameters)}
    if config.sft_epochs:
        usual_rates["sft_learning_rate"] = usual_sft_rate(config.tuning, parameters)
    for name, rate in usual_rates.items():
        value, low, high = getattr(settled, name), rate / factor, rate * factor
        if not low <= value <= high:
            values = {
                "name": name,
                "value": f"{value:g}",
                "tuning": config.tuning,
                "size": f"{parameters / 1e6:.1f}",
                "low": f"{low:.2g}",
                "high": f"{high:.2g}",
            }
            found.append(Caution(f"{name}_unusual", values))
    usual_lora = asdict(LoraConfig())
    given = [k for k, v in asdict(config.lora).items() if v != usual_lora[k]]
    if config.tuning == "full" and given:
        names = ", ".join(f"lora.{name}" for name in given)
        found.append(Caution("lora_unused", {"names": names}))
    return found


def data_cautions(
    pairs: Sequence[Pair],
    held_out: Sequence[Pair],
    reports: Mapping[str, RowReport],
    max_length: int,
    updates: Mapping[str, int],
) -> list[Caution]:
    """What is odd about the rows; `updates`: optimizer steps of each phase."""
    found = [*_amounts(pairs, held_out, updates)]
    for name, report in reports.items():
        found += _lost_rows(name, report, max_length)
    return found + _doubles(pairs) + _one_label(pairs) + _leaks(pairs, held_out)


def _amounts(
    pairs: Sequence[Pair], held_out: Sequence[Pair], updates: Mapping[str, int]
) -> list[Caution]:
    found = []
    amounts = [("few_pairs", "least_pairs", len(pairs))]
    amounts += [
        ("few_updates" if phase == "dpo" else "few_sft_updates", "least_updates", steps)
        for phase, steps in updates.items()
    ]
    for code, limit, count in amounts:
        least = int(LIMITS[limit].value)
        if count < least:
            found.append(Caution(code, {"count": count, "least": least}))
    prompts = len(prompts_of(held_out))
    if not prompts:
        found.append(Caution("no_held_out", {}))
    elif prompts < LIMITS["least_held_out"].value:
        # 1.96 standard errors of a share of one half
        values = {"count": prompts, "points": round(98 / math.sqrt(prompts))}
        found.append(Caution("few_held_out", values))
    return found


def _lost_rows(name: str, report: RowReport, max_length: int) -> list[Caution]:
    cut = {line for lines in report.cut.values() for line in lines}
    dropped = [line for lines in report.dropped.values() for line in lines]
    values = {"read": report.read, "file": name}
    found = []
    if len(cut) > LIMITS["cut_share"].value * report.read:
        more = {"count": len(cut), "most": max_length}
        found.append(Caution("many_cut", values | more))
    if len(dropped) > LIMITS["dropped_share"].value * report.read:
        found.append(Caution("many_dropped", values | {"count": len(dropped)}))
    return found


def position_cautions(
    rows: Mapping[str, Sequence[Pair]], positions: int | None
) -> list[Caution]:
    """Rows, by file, beyond the `positions` that the model was made for."""
    found = []
    for name, pairs in rows.items():
        long = [p for p in pairs if positions is not None and p.longest > positions]
        if long:
            worst = max(long, key=lambda pair: pair.longest)
            values = {"count": len(long), "positions": positions, "file": name}
            values |= {"line": worst.line, "tokens": worst.longest}
            found.append(Caution("beyond_positions", values))
    return found[:1]


def _doubles(pairs: Sequence[Pair]) -> list[Caution]:
    """Of labelled answers a stray says nothing: they are compared by their labels."""
    seen: dict[tuple[Any, ...], int] = {}
    lines: dict[str, dict[int, None]] = {
        "identical_answers": {},
        "duplicates": {},
        "contradictions": {},
    }
    own: tuple[Any, ...]
    opposite: tuple[Any, ...]
    for pair in pairs:
        prompt, chosen = tuple(pair.prompt_ids), tuple(pair.chosen_ids)
        if isinstance(pair, Answer):
            own, opposite = (
                (prompt, chosen, pair.label),
                (prompt, chosen, not pair.label),
            )
        else:
            rejected = tuple(pair.rejected_ids)
            own, opposite = (prompt, chosen, rejected), (prompt, rejected, chosen)
        # A pair taken apart is two answers of one line.
        if own == opposite or seen.get(opposite) == pair.line:
            lines["identical_answers"][pair.line] = None
        elif own in seen:
            lines["duplicates"][pair.line] = None
        elif opposite in seen:
            lines["contradictions"][pair.line] = None
        seen[own] = pair.line
    return [
        Caution(code, {"count": len(numbers), "lines": lines_words([*numbers])})
        for code, numbers in lines.items()
        if numbers
    ]


def _one_label(pairs: Sequence[Pair]) -> list[Caution]:
    labels = [pair.label for pair in pairs if isinstance(pair, Answer)]
    if len(set(labels)) != 1:
        return []
    values = {"count": len(labels), "label": "true" if labels[0] else "false"}
    return [Caution("one_label", values)]


def _leaks(pairs: Sequence[Pair], held_out: Sequence[Pair]) -> list[Caution]:
    trained = prompts_of(pairs)
    lines = [pair.line for pair in held_out if tuple(pair.prompt_ids) in trained]
    if not lines:
        return []
    values = {"count": len(lines), "lines": lines_words(lines)}
    return [Caution("held_out_leak", values)]


def lines_words(lines: Sequence[int], most: int = 10) -> str:
    """ "3, 7", "3, 7, …"."""
    shown = ", ".join(str(line) for line in lines[:most])
    return f"{shown}, …" if len(lines) > most else shown


def memory_cautions(needed: int | None, there: int) -> list[Caution]:
    """Whether `needed` bytes come near the `there` bytes the device has."""
    if needed is None or needed <= LIMITS["memory_share"].value * there:
        return []
    values = {"needed": f"{needed / 1e9:.1f} GB", "there": f"{there / 1e9:.1f} GB"}
    return [Caution("memory", values)]


def curve_cautions(
    rows: Sequence[Mapping[str, Any]],
    config: TrainingConfig,
    first: int,
    last: int,
    held_out_prompts: int,
) -> list[Caution]:
    """What the DPO lines of metrics.jsonl show, so far.

    The phase's steps are `first` + 1 to `last`. Means are taken over the first and the
    last tenth of the lines, at least two.
    """
    if len(rows) < 4:
        return []
    found = _stuck(rows, config, first, last) + _displaced(rows)
    if set(loss_weights(config)) <= LOG_SIGMOID:
        found += _saturated(rows)
    return found + _overfit(rows, held_out_prompts)


def _ends(rows: Sequence[Mapping[str, Any]], name: str) -> tuple[float, float] | None:
    values = [row[name] for row in rows if isinstance(row.get(name), int | float)]
    if len(values) < 4:
        return None
    size = max(2, len(values) // 10)
    return sum(values[:size]) / size, sum(values[-size:]) / size


def loss_at_start(config: TrainingConfig) -> float:
    """The loss of LOG_SIGMOID ones where the policy is its reference: every margin 0.

    −log σ(0) = ln 2; bco_pair has it twice; exo_pair is ½ ln(½ / (1−ε)) + ½ ln(½ / ε).
    """
    starts = dict.fromkeys(LOG_SIGMOID, math.log(2)) | {"bco_pair": 2 * math.log(2)}
    smoothing = config.label_smoothing
    if smoothing:
        starts["exo_pair"] = -math.log(4 * smoothing * (1 - smoothing)) / 2
    return sum(weight * starts[name] for name, weight in loss_weights(config).items())


def _stuck(
    rows: Sequence[Mapping[str, Any]], config: TrainingConfig, first: int, last: int
) -> list[Caution]:
    step = rows[-1]["step"]
    done, total = step - first, last - first
    share = config.warmup_ratio + LIMITS["stuck_share"].value
    loss, margins = _ends(rows, "loss"), _ends(rows, "rewards/margins")
    if done < max(LIMITS["stuck_steps"].value, share * total) or not (loss and margins):
        return []
    weights = loss_weights(config)
    names = set(weights)
    if names <= LOG_SIGMOID:
        most = LIMITS["stuck_margin"].value
        away = abs(loss[1] - loss_at_start(config))
        moved = away > most / 2 * sum(weights.values())
    else:
        # Without a reference a margin says nothing of what was learned.
        moved = not any(LOSS_FACTS[name].needs_reference for name in names)
        most = LIMITS["stuck_log_ratio"].value * config.beta
    if moved or abs(margins[1]) > most:
        return []
    values = {
        "step": step,
        "total": last,
        "loss": f"{loss[1]:.4f}",
        "margin": f"{margins[1]:.4f}",
        "rate": f"{max(row.get('learning_rate') or 0 for row in rows):g}",
        "norm": f"{rows[-1].get('grad_norm') or 0:.2g}",
    }
    return [Caution("stuck", values)]


def _displaced(rows: Sequence[Mapping[str, Any]]) -> list[Caution]:
    chosen, rejected = _ends(rows, "drift/chosen"), _ends(rows, "drift/rejected")
    if not (chosen and rejected):
        return []
    lost = {"chosen": chosen[1] - chosen[0], "rejected": rejected[1] - rejected[0]}
    if max(lost.values()) > -LIMITS["lost_log_ratio"].value:
        return []
    times = {side: f"{math.exp(drift):.2g}" for side, drift in lost.items()}
    return [Caution("displacement", times)]


def _saturated(rows: Sequence[Mapping[str, Any]]) -> list[Caution]:
    margins = _ends(rows, "rewards/margins")
    right = _ends(rows, "rewards/accuracies")
    if not (margins and right) or margins[1] < LIMITS["saturated_margin"].value:
        return []
    values = {"margin": f"{margins[1]:.1f}", "accuracy": round(100 * right[1])}
    return [Caution("saturated", values)]


def overfit_rise(prompts: int) -> float:
    """Of a held-out loss over so many prompts, what is more than scatter: that falls with
    the root of their number."""
    enough = LIMITS["least_held_out"].value
    return LIMITS["overfit_rise"].value * math.sqrt(max(1, enough / max(1, prompts)))


def _overfit(rows: Sequence[Mapping[str, Any]], prompts: int) -> list[Caution]:
    held = [row for row in rows if isinstance(row.get("eval_loss"), int | float)]
    if len(held) < 3:
        return []
    best, now = min(held, key=lambda row: row["eval_loss"]), held[-1]
    if now["eval_loss"] - best["eval_loss"] < overfit_rise(prompts):
        return []
    loss = _ends(rows, "loss")
    since = _ends([row for row in rows if row["step"] >= best["step"]], "loss")
    if loss is None or since is None or since[1] > min(loss[0], since[0]):
        return []
    values = {
        "best": best["step"],
        "least": f"{best['eval_loss']:.3f}",
        "now": f"{now['eval_loss']:.3f}",
        "step": now["step"],
        "epochs": f"{best.get('epoch') or 0:.2g}",
    }
    return [Caution("overfit", values)]


def held_out_cautions(held_out: Mapping[str, Any] | None) -> list[Caution]:
    """From summary.json's "held_out": whether the end is worse than the start, or the
    policy writes what the base does not."""
    return _worse(held_out) + _unlikely(held_out)


def _unlikely(held_out: Mapping[str, Any] | None) -> list[Caution]:
    found = (held_out or {}).get("unlikely/chosen")
    if found is None:
        return []
    policy, base = found["policy"], found["base"]
    times, more = LIMITS["unlikely_times"].value, LIMITS["unlikely_more"].value
    # What is no number says nothing.
    if not (policy >= times * base and policy - base >= more):
        return []
    shares = {"policy": policy, "base": base}
    values = {name: f"{100 * share:.2g}" for name, share in shares.items()}
    return [Caution("unlikely_tokens", values)]


def _worse(held_out: Mapping[str, Any] | None) -> list[Caution]:
    name = "rewards/accuracies_ties_half"
    change = ((held_out or {}).get("difference") or {}).get(name) or {}
    if held_out is None or change.get("high") is None or change["high"] >= 0:
        return []
    ends = {"before": held_out["start"][name], "now": held_out["end"][name]}
    return [Caution("held_out_worse", {k: round(100 * v) for k, v in ends.items()})]

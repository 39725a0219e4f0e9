"""Healing what a crash left half done. Every beat, and `manage.py reconcile --once`.

Each step is conditional on what it found, so two of these at once, or one after the
other, do no more than one alone.
"""

import logging
from datetime import timedelta

from django.conf import settings
from django.db.models import F
from django.utils import timezone
from django.utils.translation import gettext as _

from annotation.clocks import not_lately
from annotation.models import Project
from inference import services as inference
from inference.faults import told
from inference.queries import stopped_on_purpose
from training import attempts, promotion, publishing, runfolder
from training.errors import StaleRound
from training.models import TrainingRound
from training.rounds import nudge
from training.running import vllm_reason

logger = logging.getLogger(__name__)

State = TrainingRound.State

DEPLOY_AGAIN_AFTER = timedelta(seconds=20)
"""Until then the one that ended the round may still be deploying its policy."""


def reconcile() -> dict[str, int]:
    """What was done: {"requeued", "finished", "nudged", …: n}, by step."""
    steps = {
        "requeued": requeue_lost,
        "finished": finish_publishing,
        "nudged": nudge_waiting,
        "deployed": deploy_candidates,
        "vllm": start_vllm_again,
        "swept": sweep,
    }
    done = {}
    for name, step in steps.items():
        try:
            done[name] = step()
        except Exception:
            # One thing that cannot be healed must not keep the others from it.
            logger.exception("reconcile: %s", name)
            done[name] = 0
    return done


def requeue_lost() -> int:
    """Attempts without a heartbeat: queued again, cancelled as asked, or failed."""
    gone = attempts.without_supervisor()
    lost = TrainingRound.objects.filter(
        gone, state__in=[State.PREPARING, State.TRAINING]
    )
    done = 0
    for training_round in lost:
        try:
            attempts.give_back(
                training_round,
                _("The worker of this attempt is gone (%(owner)s).")
                % {"owner": training_round.owner},
                is_lost=True,
                only_if=gone,
            )
            done += 1
        except StaleRound:
            continue
    return done


def finish_publishing() -> int:
    """Rounds whose publisher died: their adapter is whole, so finish it here."""
    gone = attempts.without_supervisor()
    left = TrainingRound.objects.filter(gone, state=State.PUBLISHING)
    done = 0
    for training_round in left:
        taken = left.filter(pk=training_round.pk, epoch=training_round.epoch).update(
            epoch=F("epoch") + 1,
            attempts=F("attempts") + 1,
            owner=attempts.me(),
            heartbeat_at=timezone.now(),
        )
        if not taken:
            continue
        training_round = TrainingRound.objects.select_related(
            "project__channel", "start"
        ).get(pk=training_round.pk)
        try:
            publishing.publish(training_round)
            done += 1
        except StaleRound:
            continue
        except Exception as fault:
            if training_round.attempts < settings.ROUND_ATTEMPTS:
                raise
            # A fault that stays would block the project's next round for ever.
            logger.exception("Round %s cannot be published", training_round.pk)
            attempts.failed(
                training_round,
                _("The trained adapter could not become a policy: %(why)s")
                % {"why": f"{type(fault).__name__}: {told(fault)}"},
            )
    return done


def nudge_waiting() -> int:
    """Queued rounds whose message may be lost; a second message does no harm."""
    due = not_lately("nudged_at", timedelta(seconds=settings.ROUND_NUDGE_AFTER))
    done = 0
    for round_id in TrainingRound.objects.filter(due, state=State.QUEUED).values_list(
        "pk", flat=True
    ):
        if TrainingRound.objects.filter(due, pk=round_id, state=State.QUEUED).update(
            nudged_at=timezone.now()
        ):
            nudge(round_id)
            done += 1
    return done


def deploy_candidates() -> int:
    """Policies that should serve by themselves and were refused, e.g. vLLM was down."""
    done = 0
    for project in Project.objects.filter(
        training_rounds__deploys_itself=True
    ).distinct():
        newest = (
            project.training_rounds.filter(state=State.SUCCEEDED)
            .select_related("project__channel", "policy")
            .latest("finished_at")
        )
        if newest.finished_at < timezone.now() - DEPLOY_AGAIN_AFTER:
            done += promotion.auto_deploy(newest) is not None
    return done


def start_vllm_again() -> int:
    """A server stopped for a round whose supervisor was killed is wanted again."""
    if settings.VLLM_WHILE_TRAINING != "stop" or stopped_on_purpose() != vllm_reason():
        return 0
    trains = TrainingRound.objects.filter(
        ~attempts.without_supervisor(), state__in=[State.PREPARING, State.TRAINING]
    )
    if trains.exists():
        return 0
    inference.set_wanted("running", "")
    return 1


def sweep() -> int:
    """Files that crashes left: of rounds in the making, checkpoints of succeeded ones."""
    folders = settings.ROUNDS_DIR.glob("*/attempt-*/checkpoints")
    ids = filter(str.isdigit, {folder.parents[1].name for folder in folders})
    left = TrainingRound.objects.filter(state=State.SUCCEEDED, pk__in=ids)
    for training_round in left:
        publishing.drop_checkpoints(training_round)
    return runfolder.sweep_making() + len(left)

"""The end of a round: its adapter becomes a policy, exactly one.

Safe to repeat after a crash at any line: the folder of the attempt that trained is
named by the event that entered PUBLISHING, registering the same files again gives the
same policy, and the policy is linked in the transaction that ends the round.
"""

import shutil
from pathlib import Path

from django.db import transaction
from django.utils.translation import gettext as _

from annotation import project_settings
from inference import policies
from inference.errors import DeployRefused, InferenceError
from inference.faults import told
from training import attempts, ingest, promotion, runfolder
from training.models import TrainingRound
from training.states import move

State = TrainingRound.State


def publish(training_round: TrainingRound) -> TrainingRound:
    """Register the policy, end the round, deploy if the project wants it.

    The round must be in PUBLISHING at the caller's epoch. Raises StaleRound where it
    was taken away meanwhile; a reason that will not pass ends the round as failed.
    """
    folder = trained_folder(training_round)
    if folder is None:
        return attempts.failed(
            training_round, _("The trained adapter is no longer in the round's folder.")
        )
    try:
        policy = policies.register_policy(
            training_round.project.channel, training_round.start, folder / "adapter"
        )
    except (DeployRefused, InferenceError, OSError) as problem:
        return attempts.failed(
            training_round,
            _("The trained adapter could not become a policy: %(why)s")
            % {"why": told(problem)},
        )
    other = TrainingRound.objects.filter(policy=policy).exclude(pk=training_round.pk)
    if earlier := other.first():
        return attempts.failed(
            training_round,
            _(
                "Training gave exactly the files of %(policy)s, which round %(number)d"
                " made: there is nothing new to publish. Judge more pairs or change a"
                " setting first."
            )
            % {"policy": policy.name, "number": earlier.number},
        )
    with transaction.atomic():
        finished = move(
            training_round,
            State.SUCCEEDED,
            at_epoch=training_round.epoch,
            detail=policy.name,
            policy=policy,
            deploys_itself=project_settings.of(training_round.project).auto_deploy,
            summary=ingest.read_json(folder / "summary.json"),
            error="",
            activity={},
        )
        ingest.store_margins(finished, folder / "pairs_scored.jsonl")
    drop_checkpoints(finished)
    promotion.auto_deploy(finished)
    return finished


def drop_checkpoints(training_round: TrainingRound) -> None:
    """A succeeded round is never resumed; its checkpoints are several adapters large.

    Logs, figures and the adapter stay.
    """
    for _epoch, folder in runfolder.attempts(training_round):
        shutil.rmtree(folder / "checkpoints", ignore_errors=True)


def trained_folder(training_round: TrainingRound) -> Path | None:
    """The run folder of the attempt that trained to the end, if it is still there."""
    event = training_round.events.filter(state=State.PUBLISHING).last()
    if event is None:
        return None
    folder = runfolder.attempt_folder(training_round, event.epoch)
    return folder if (folder / "adapter").is_dir() else None

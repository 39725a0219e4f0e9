"""Making a policy serve a project, and taking it back.

The flip itself, and every check before it, is inference's; here the project's old
stock goes and new stock is asked for.
"""

import re
from typing import Any

from django.utils import translation

from annotation import project_settings, stock
from annotation.models import Project
from inference import policies
from inference.errors import DeployRefused, InferenceError
from inference.models import Deployment, Policy
from inference.queries import policy_state, serving_policy
from training.models import TrainingRound
from training.states import note


def promote(
    policy: Policy, by: Any = None, project: Project | None = None
) -> Deployment:
    """Let `policy` serve its project. Raises DeployRefused, nothing changed.

    `project` is needed for a base alone, which belongs to no project. A refusal is in
    English, to be retold: what rejects a policy is kept for readers of any language.
    """
    if project is None:
        if policy.channel is None:
            raise ValueError("a base serves many projects: say which is meant")
        project = policy.channel.project
    channel = project.channel if policy.is_base else None
    with translation.override(None):
        deployment = policies.deploy_policy(policy, by=by, channel=channel)
    _renew_stock(project, deployment)
    return deployment


def rollback(project: Project, by: Any = None) -> Deployment:
    """Let the policy serve that served before. Raises DeployRefused, in English too."""
    with translation.override(None):
        deployment = policies.rollback(project.channel, by=by)
    _renew_stock(project, deployment)
    return deployment


def _renew_stock(project: Project, deployment: Deployment) -> None:
    # A crash before this line does no harm: filling the stock withdraws as well.
    stock.withdraw_stock(project, keep=deployment.policy)
    stock.nudge(project)


def is_waiting_for_auto_deploy(training_round: TrainingRound) -> bool:
    """Whether the round's policy should serve by itself and does not yet.

    Both then and now `auto_deploy` must be on: what was left a candidate waits for a
    manager. Not once anything was deployed after it: then somebody chose, or a later
    round did.
    """
    policy, project = training_round.policy, training_round.project
    if policy is None or not training_round.deploys_itself:
        return False
    if not project_settings.of(project).auto_deploy:
        return False
    channel = project.channel
    channel.serving = serving_policy(channel)
    if policy_state(policy, channel) != "candidate":
        return False
    later = TrainingRound.objects.filter(
        project=project,
        state=TrainingRound.State.SUCCEEDED,
        finished_at__gt=training_round.finished_at,
    )
    flips = Deployment.objects.filter(
        channel=channel, at__gte=training_round.finished_at
    )
    return not later.exists() and not flips.exists()


def auto_deploy(training_round: TrainingRound) -> Deployment | None:
    """Deploy a finished round's policy where its project wants that.

    A refusal is recorded once on the round, which stays succeeded; reconcile asks
    again while the reason may pass (vLLM down).
    """
    if not is_waiting_for_auto_deploy(training_round):
        return None
    try:
        return promote(training_round.policy)
    except (DeployRefused, InferenceError) as refusal:
        if serving_policy(training_round.project.channel) == training_round.policy:
            return None  # Somebody else was a moment quicker.
        last = training_round.events.last()
        if last is None or _but_numbers(last.detail) != _but_numbers(str(refusal)):
            note(training_round, str(refusal))
        return None


def _but_numbers(text: str) -> str:
    """A server that starts gives its seconds along: the same refusal every time."""
    return re.sub(r"\d+", "", text)

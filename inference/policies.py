"""Policies come to be, are promoted and are rolled back.

A promotion is: check the files, load the adapter on every server, compare its answers
with the trainer's canary, and only then flip the channel's pointer, if it still points
where it did at the start. Whatever goes wrong before leaves the old policy serving.
What becomes of comparisons of the old policy is annotation's.
"""

import logging
import os
import shutil
import tempfile
from pathlib import Path

from django.conf import settings
from django.contrib.auth.base_user import AbstractBaseUser
from django.db import IntegrityError, transaction
from django.db.models import Max
from django.utils import timezone
from django.utils.translation import gettext as _

from inference import leftovers
from inference.adapters import FILES, Adapter, files_sha256, validate_adapter
from inference.base import base_sha256
from inference.canary import read_canary
from inference.errors import AdapterRefused, DeployRefused, InferenceError
from inference.faults import told
from inference.models import Channel, Deployment, Policy, Replica
from inference.replicas import client_of, is_alive, is_ready, replicas
from inference.server import largest_rank
from inference.tending import load_policy

logger = logging.getLogger(__name__)
STAGING = ".staging-"


# --- Registering ---------------------------------------------------------------------


def register_policy(channel: Channel, parent: Policy, folder: Path) -> Policy:
    """Make a candidate of a trained adapter; the same files give the same policy.

    `folder` holds adapter_config.json and adapter_model.safetensors; canary.json lies
    there or one folder up (where the trainer leaves it). Its files are copied to
    POLICIES_DIR/<name>, read-only, and on disk before the row is. Raises AdapterRefused,
    or InferenceError where the base's own files cannot be read.
    """
    base = Policy.objects.get(number=0, base_sha256=parent.base_sha256)
    settings.POLICIES_DIR.mkdir(parents=True, exist_ok=True)
    leftovers.sweep(settings.POLICIES_DIR, STAGING)
    staged = Path(tempfile.mkdtemp(dir=settings.POLICIES_DIR, prefix=STAGING))
    try:
        _copy(Path(folder), staged)
        adapter = validate_adapter(
            staged,
            Path(base.base_model),
            lambda named: _is_base(named, base),
            largest_rank(),
        )
        read_canary(staged / "canary.json")
        _make_durable(staged)
        return _publish(channel, parent, base, adapter, staged)
    finally:
        shutil.rmtree(staged, ignore_errors=True)


def _copy(folder: Path, target: Path) -> None:
    """The known files, and the names of pickles, which are then refused by name."""
    if not folder.is_dir():
        raise AdapterRefused(_("The trainer left no adapter folder."))
    for file in folder.iterdir():
        if file.name in FILES and file.is_file() and not file.is_symlink():
            shutil.copyfile(file, target / file.name)
        elif file.suffix == ".bin":
            (target / file.name).touch()
    beside = folder.parent / "canary.json"
    if not (target / "canary.json").exists() and beside.is_file():
        shutil.copyfile(beside, target / "canary.json")


def _is_base(named: str, base: Policy) -> bool:
    """Whether an adapter's note of its base, a folder or a hub id, means `base`."""
    if named and named in (base.base_model, settings.MODEL):
        return True
    folder = Path(named).expanduser()
    if not named or not (folder / "config.json").is_file():
        return False
    try:
        return base_sha256(folder.resolve()) == base.base_sha256
    except InferenceError:
        return False


def _make_durable(folder: Path) -> None:
    for name in FILES:
        with (folder / name).open("rb") as file:
            os.fsync(file.fileno())
        (folder / name).chmod(0o444)
    _fsync_folder(folder)


def _publish(
    channel: Channel, parent: Policy, base: Policy, adapter: Adapter, staged: Path
) -> Policy:
    """Row and folder together: the row is committed after the folder has its name."""
    for _attempt in range(20):
        same = Policy.objects.filter(channel=channel, adapter_sha256=adapter.sha256)
        if (known := same.first()) is not None:
            return known
        try:
            with transaction.atomic():
                last = Policy.objects.aggregate(last=Max("number"))["last"] or 0
                policy = Policy.objects.create(
                    name=f"policy-{last + 1:04d}-{adapter.sha256[:8]}",
                    number=last + 1,
                    base_model=base.base_model,
                    base_sha256=base.base_sha256,
                    channel=channel,
                    parent=parent,
                    adapter_sha256=adapter.sha256,
                    rank=adapter.rank,
                )
                _give_name(staged, policy)
        except IntegrityError:
            continue  # another process took the number, or registered these files
        logger.info("%s is registered as a candidate of %s", policy.name, channel)
        return policy
    raise DeployRefused(_("Too many policies are being registered at once; try again."))


def _give_name(staged: Path, policy: Policy) -> None:
    target = policy.adapter_path
    if target.exists():
        # Left by a crash between rename and commit, perhaps not read-only yet.
        if files_sha256(target) != policy.adapter_sha256:
            raise DeployRefused(
                _("The folder of %(policy)s exists with other files.")
                % {"policy": policy}
            )
    else:
        staged.rename(target)
    target.chmod(0o555)
    _fsync_folder(target.parent)


def _fsync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


# --- Promoting and rolling back --------------------------------------------------------


def deploy_policy(
    policy: Policy, by: AbstractBaseUser | None = None, channel: Channel | None = None
) -> Deployment:
    """Stage, check, flip. The policy that serves already is deployed already.

    `channel` is needed for a base, which belongs to none. Raises DeployRefused: the old
    policy then serves on. A policy whose files or answers are wrong is also rejected
    for good; a server that cannot be reached only refuses for now.
    """
    policy.refresh_from_db()
    channel_pk = channel.pk if channel is not None else policy.channel_id
    if channel_pk is None:
        raise DeployRefused(
            _("A base serves where a channel says, and none was given.")
        )
    channel = Channel.objects.select_related("serving").get(pk=channel_pk)
    if policy.rejected_reason:
        raise DeployRefused(
            _("%(policy)s was rejected: %(reason)s")
            % {"policy": policy.name, "reason": policy.rejected_reason}
        )
    if channel.serving_id == policy.pk:
        done = Deployment.objects.filter(channel=channel, policy=policy).first()
        return done or Deployment.objects.create(channel=channel, policy=policy, by=by)
    servers = _ready_servers(policy)
    try:
        _check_files(policy)
        _stage(policy, servers)
    except AdapterRefused as error:
        Policy.objects.filter(pk=policy.pk).update(rejected_reason=str(error))
        logger.error("%s is rejected: %s", policy.name, error)
        raise
    return _flip(channel, policy, by, is_rollback=False)


def rollback(channel: Channel, by: AbstractBaseUser | None = None) -> Deployment:
    """Back to what served before the serving policy was deployed; again: further back.

    It is still loaded, so this is a flip; a server that lacks it gets it first, and one
    that is down gets it when it is back. Raises DeployRefused.
    """
    channel = Channel.objects.select_related("serving").get(pk=channel.pk)
    target = _before(channel)
    ready = [replica for replica in replicas() if is_ready(replica)]
    try:
        _stage(target, ready)
    except AdapterRefused as error:
        raise DeployRefused(
            _("%(policy)s cannot serve again: %(reason)s")
            % {"policy": target.name, "reason": error}
        ) from error
    return _flip(channel, target, by, is_rollback=True)


def rollback_target(channel: Channel) -> Policy | None:
    """What a rollback would let serve; None where there is nothing to go back to."""
    try:
        return _before(channel)
    except DeployRefused:
        return None


def _before(channel: Channel) -> Policy:
    """What serves again once the last deployment that stands is taken back.

    The channel's flips are replayed as a stack: a deployment lays what it replaced on
    it, a rollback takes it off again, with the rejected ones that it passed over.
    """
    stack: list[Policy] = []
    flips = Deployment.objects.filter(channel=channel).select_related(
        "policy", "previous"
    )
    for flip in flips.order_by("id"):
        if not flip.is_rollback:
            if flip.previous is not None:
                stack.append(flip.previous)
        elif flip.policy in stack:
            while stack.pop() != flip.policy:
                pass
    while stack:
        if (policy := stack.pop()) != channel.serving and not policy.rejected_reason:
            return policy
    raise DeployRefused(_("There is nothing to roll back to: the first policy serves."))


def _ready_servers(policy: Policy) -> list[Replica]:
    servers = replicas()
    if not servers:
        raise DeployRefused(
            _("No vLLM server has been seen: start manage.py run_vllm.")
        )
    for replica in servers:
        if not is_ready(replica):
            # Of one that nobody watches any more the row tells what once was.
            seen = replica.detail or replica.get_state_display()
            raise DeployRefused(
                _("A vLLM server is not ready (%(seen)s). Try again when it is.")
                % {"seen": seen if is_alive(replica) else _("not running")}
            )
        if replica.base is None or replica.base.base_sha256 != policy.base_sha256:
            raise DeployRefused(
                _(
                    "%(policy)s belongs to another base model than the one served now (MODEL)."
                )
                % {"policy": policy.name}
            )
    return servers


def _check_files(policy: Policy) -> None:
    if policy.is_base:
        return
    try:
        digest = files_sha256(policy.adapter_path)
    except OSError as error:
        if isinstance(error, FileNotFoundError) and settings.POLICIES_DIR.is_dir():
            raise AdapterRefused(
                _("Its files are gone: %(error)s") % {"error": told(error)}
            ) from error
        # A disk that is not mounted, too many open files: it may pass.
        raise DeployRefused(
            _("The files of %(policy)s cannot be read now: %(error)s")
            % {"policy": policy.name, "error": told(error)}
        ) from error
    if digest != policy.adapter_sha256:
        raise AdapterRefused(_("Its files have changed since it was registered."))


def _stage(policy: Policy, servers: list[Replica]) -> None:
    """Load and check the policy on every server, or on none. A base is there always."""
    # Until it serves, the keepers would unload one that last served long ago.
    Policy.objects.filter(pk=policy.pk).update(staged_at=timezone.now())
    staged: list[Replica] = []
    try:
        for replica in servers if not policy.is_base else []:
            assert replica.base is not None
            staged.append(replica)
            load_policy(client_of(replica.url), policy, replica.base)
    except InferenceError as error:
        _unstage(policy, staged)
        raise DeployRefused(
            _("%(policy)s could not be loaded: %(reason)s")
            % {"policy": policy.name, "reason": error}
        ) from error
    except AdapterRefused:
        _unstage(policy, staged)
        raise


def _unstage(policy: Policy, staged: list[Replica]) -> None:
    if Channel.objects.filter(serving=policy).exists():
        return  # another deployment of it succeeded meanwhile
    for replica in staged:
        try:
            client_of(replica.url).unload_adapter(policy.name)
        except InferenceError as error:
            logger.warning("%s stays loaded: %s", policy.name, error)


def _flip(
    channel: Channel, policy: Policy, by: AbstractBaseUser | None, *, is_rollback: bool
) -> Deployment:
    """Compare-and-set: only from the policy that served when the checks began."""
    with transaction.atomic():
        flipped = Channel.objects.filter(
            pk=channel.pk, serving_id=channel.serving_id
        ).update(serving=policy)
        if not flipped:
            twin = Deployment.objects.filter(channel=channel).first()
            if twin is not None and twin.policy_id == policy.pk:
                return twin  # the same button, pressed twice
            raise DeployRefused(
                _("Another policy was deployed meanwhile; look again, then decide.")
            )
        deployment = Deployment.objects.create(
            channel=channel,
            policy=policy,
            previous_id=channel.serving_id,
            is_rollback=is_rollback,
            by=by,
        )
    logger.info("%s now serves %s", channel, policy.name)
    return deployment

"""Making a project, changing it, and who its members are."""

import uuid
from collections.abc import Mapping
from copy import deepcopy
from functools import partial
from typing import Any

from django.contrib.auth import get_user_model
from django.db import IntegrityError, transaction
from django.utils import timezone
from django.utils.text import slugify
from django.utils.translation import gettext as _

from annotation import checking, project_settings, texts, validation
from annotation.deciding import ask_for_checks
from annotation.errors import MembersError, SettingsError
from annotation.models import Membership, Project, Role
from annotation.nudging import send
from annotation.stock import nudge, wake_prompts
from inference import services as inference

MAX_NAME, MAX_GUIDELINES = 120, 100_000
RESERVED = "new"
"""The page that makes a project has the address a project of this slug would have."""


def create_project(
    name: str,
    creator,
    slug: str = "",
    guidelines: str = "",
    settings: Mapping[str, Any] | None = None,
) -> Project:
    """A project whose channel serves the base, with its creator as manager.

    On the starter model what is not given begins as measured there. Raises
    SettingsError naming the field; a slug given and taken is one.
    """
    name = _checked_name(name)
    guidelines = checked_guidelines(guidelines)
    own = project_settings.checked(dict(settings or {}))
    base = inference.ensure_base()
    if inference.is_starter(base):
        own = _merged(deepcopy(project_settings.STARTER), own)
    for wanted in _slugs(name, slug):
        if Project.objects.filter(slug=wanted).exists():
            continue
        try:
            with transaction.atomic():
                project = Project.objects.create(
                    slug=wanted,
                    name=name,
                    guidelines=guidelines,
                    settings=own,
                    rules_code=validation.CODE_VERSION,
                    base=base,
                    channel=inference.create_channel(wanted),
                )
                if creator is not None:
                    Membership.objects.create(
                        project=project, user=creator, role=Role.MANAGER
                    )
                return project
        except IntegrityError:
            continue  # Somebody took the slug between the look and the row.
    raise SettingsError(
        "slug", _("There is a project “%(slug)s” already.") % {"slug": slug}
    )


def update_project(
    project: Project,
    *,
    name: str | None = None,
    guidelines: str | None = None,
    settings: Mapping[str, Any] | None = None,
) -> Project:
    """Change what is given. Settings are merged: what isn't named stays.

    Where that changes what the rules say, pairs that no round has taken are checked
    again. Raises SettingsError. The slug never changes: addresses and channel carry it.
    """
    with transaction.atomic():
        row = Project.objects.select_for_update(no_key=True, of=("self",)).get(
            pk=project.pk
        )
        if name is not None:
            row.name = _checked_name(name)
        if guidelines is not None:
            row.guidelines = checked_guidelines(guidelines)
        if settings is not None:
            given = project_settings.checked(settings)  # type: ignore[arg-type]
            before = project_settings.of(row)
            row.settings = _merged(row.settings, given)
            _follow(row, before, project_settings.of(row))
        row.save(update_fields=["name", "guidelines", "settings", "decide_again_since"])
    for field in ("name", "guidelines", "settings"):
        setattr(project, field, getattr(row, field))
    return project


def _follow(
    project: Project,
    before: project_settings.ProjectSettings,
    now: project_settings.ProjectSettings,
) -> None:
    """Have done what changed settings ask for: prompts tried, comparisons decided and
    pairs checked again, the stock filled."""
    from annotation.tasks import decide_again  # It imports services beside this one.

    if now.sampling != before.sampling:
        wake_prompts(project)
    if (now.decide_by, now.min_posterior) != (before.decide_by, before.min_posterior):
        # By a task, once saved: a project may have a million decisions. The mark stays
        # until that is done, whatever becomes of the message.
        project.decide_again_since = timezone.now()
        transaction.on_commit(partial(send, decide_again, project.pk), robust=True)
    if checking.rules_version(now) != checking.rules_version(before):
        checking.check_again(project)
        transaction.on_commit(ask_for_checks, robust=True)
    nudge(project)


def set_members(project: Project, members: Mapping[str, str]) -> dict[str, str]:
    """Make these the members, {"username": "role"}; others lose their access.

    Raises MembersError naming the user. What they judged stays.
    """
    if not isinstance(members, Mapping):
        raise MembersError("members", _("Send an object of usernames and roles."))
    for username, role in members.items():
        if role not in Role.values:
            raise MembersError(
                str(username),
                _("The role of “%(user)s” must be one of %(known)s.")
                % {"user": username, "known": ", ".join(Role.values)},
            )
    if Role.MANAGER not in members.values():
        raise MembersError("members", _("A project needs at least one manager."))
    known = {
        user.get_username(): user
        for user in get_user_model().objects.filter(
            username__in=[name for name in members if not texts.problem(name)]
        )
    }
    for username in members:
        if username not in known:
            raise MembersError(
                username,
                _("There is no user “%(user)s”. Create the account first.")
                % {"user": username},
            )
    managers = [known[name] for name in members if members[name] == Role.MANAGER]
    if not any(user.is_active for user in managers):
        raise MembersError(
            "members",
            _("A project needs at least one manager whose account is active."),
        )
    with transaction.atomic():
        # Two managers who save at once: the later one's list is what stands, whole.
        Project.objects.select_for_update(no_key=True).get(pk=project.pk)
        Membership.objects.filter(project=project).exclude(
            user__in=known.values()
        ).delete()
        Membership.objects.bulk_create(
            [
                Membership(project=project, user=known[username], role=role)
                for username, role in members.items()
            ],
            update_conflicts=True,
            unique_fields=["project", "user"],
            update_fields=["role"],
        )
    return dict(members)


def change_member(project: Project, username: str, role: str | None) -> None:
    """One member added, changed, or with None taken out; the others stay as they are,
    also where two managers do so at the same moment. Raises what `set_members` raises."""
    with transaction.atomic():
        Project.objects.select_for_update(no_key=True).get(pk=project.pk)
        members = dict(project.memberships.values_list("user__username", "role"))
        if role is None:
            members.pop(username, None)
        else:
            members[username] = role
        set_members(project, members)


def checked_slug(slug: str) -> str:
    """One that a new project may have, unless somebody takes it meanwhile. Raises
    SettingsError."""
    if slug != slugify(slug) or len(slug) > 80:
        wrong = _("Take up to 80 lower-case letters, digits, hyphens and underscores.")
    elif slug == RESERVED:
        wrong = _("“new” is the address of a page; choose another.")
    elif Project.objects.filter(slug=slug).exists():
        wrong = _("There is a project “%(slug)s” already.") % {"slug": slug}
    else:
        return slug
    raise SettingsError("slug", wrong)


def _slugs(name: str, slug: str):
    """The one asked for, or ones made of the name until one is free."""
    if slug:
        yield checked_slug(slug)
        return
    made = slugify(name)[:70].strip("-")
    if made and made != RESERVED:
        yield made
    for _attempt in range(5):
        yield f"{made or 'project'}-{uuid.uuid4().hex[:6]}"


def _checked_name(name: Any) -> str:
    if not isinstance(name, str) or not name.strip():
        raise SettingsError("name", _("A project needs a name."))
    problem = texts.problem(name, MAX_NAME)
    if problem:
        raise SettingsError("name", _("“name” %(what)s.") % {"what": problem})
    return name.strip()


def checked_guidelines(guidelines: Any) -> str:
    if not isinstance(guidelines, str):
        raise SettingsError("guidelines", _("“guidelines” must be a text."))
    problem = texts.problem(guidelines, MAX_GUIDELINES)
    if problem:
        raise SettingsError(
            "guidelines", _("“guidelines” %(what)s.") % {"what": problem}
        )
    return guidelines


def _merged(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, Any]:
    """Rules and sampling are merged by name; a round's config is replaced whole."""
    return {
        **old,
        **{
            name: project_settings.merged(name, old.get(name, {}), value)
            for name, value in new.items()
        },
    }

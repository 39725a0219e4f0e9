"""A project's navigation: its pages in groups by what people do, and who may open which.

Data and one function; the tag `project_nav` draws it. Pages of rounds and policies are
named by their addresses alone. The page's own view still enforces the role.
"""

from typing import Any, NamedTuple

from django.urls import reverse
from django.utils.translation import gettext_lazy as _
from django.utils.translation import pgettext_lazy

from annotation.access import at_least
from annotation.models import Project, Role


class Entry(NamedTuple):
    """A page that is linked to, by the name of its address."""

    name: str
    words: Any
    role: str = Role.ANNOTATOR
    """Who may open it, and whoever may more."""
    within: tuple[str, ...] = ()
    """Addresses that belong to it: one opened from it, or what its forms are sent to. Of
    entries that name the same one, it belongs to the last one that the reader may open."""


Group = tuple[Any, list[Entry]]

GROUPS: list[Group] = [
    (
        pgettext_lazy("navigation", "Project"),
        [
            # Which names the prompts that the policy answers badly.
            Entry("project", _("Overview"), within=("prompt",)),
            Entry("members", _("Members"), Role.MANAGER),
            Entry("project_settings", _("Settings"), Role.MANAGER),
        ],
    ),
    (
        pgettext_lazy("navigation", "Judge"),
        [
            Entry(
                "compare",
                _("Compare"),
                within=("judge", "skip", "undo", "ahead", "last_ten", "differences"),
            ),
            Entry("history", _("My history"), within=("judgment_as_gold",)),
        ],
    ),
    # By itself, so that what waits is one click away from everywhere.
    (
        _("Review"),
        [
            Entry(
                "review", _("Review"), Role.REVIEWER, within=("settle", "undo_settled")
            )
        ],
    ),
    (
        pgettext_lazy("navigation", "Data"),
        [
            Entry(
                "pairs",
                _("Pairs"),
                Role.REVIEWER,
                within=("pair", "let_through", "take_back", "repair", "pair_as_gold"),
            ),
            Entry("prompts", _("Prompts"), Role.MANAGER, within=("prompt",)),
            Entry(
                "imports",
                _("Import"),
                Role.MANAGER,
                within=("import_job", "start_import", "cancel_import"),
            ),
            Entry("export", _("Export"), Role.REVIEWER),
        ],
    ),
    (
        pgettext_lazy("navigation", "Checks"),
        [
            Entry("quality", _("Quality"), Role.REVIEWER),
            Entry("flagged", _("Flagged"), Role.REVIEWER),
            Entry("rules", _("Rules"), Role.MANAGER, within=("preview_rules",)),
            Entry("gold", _("Gold"), Role.MANAGER, within=("retire_gold", "let_count")),
        ],
    ),
    (
        pgettext_lazy("navigation", "Training"),
        [
            Entry(
                "rounds",
                _("Rounds"),
                Role.REVIEWER,
                within=("round", "cancel_round", "resume_round"),
            ),
            Entry(
                "policies",
                _("Policies"),
                Role.REVIEWER,
                within=("deploy", "deploy_base", "rollback"),
            ),
        ],
    ),
]

FLAT = 4
"""Up to so many pages stand side by side: groups would only hide them."""


class Link(NamedTuple):
    name: str
    words: Any
    url: str
    current: str
    """aria-current: "page"; "true" for the group that the page is in; "" else."""


class Navigation(NamedTuple):
    groups: list[Link]
    """Each leads to its first page; a group of one page is that page."""
    pages: list[Link]
    """Those of the group that the reader is in."""
    heading: Any
    """That group's words; "" where `pages` is empty."""


def navigation(project: Project, role: str, here: str) -> Navigation:
    """What a member of this role sees on the page whose address is named `here`."""
    groups = _visible(role)
    if sum(len(entries) for _words, entries in groups) <= FLAT:
        groups = [
            (entry.words, [entry]) for _words, entries in groups for entry in entries
        ]
    every = [entry for _words, entries in groups for entry in entries]
    naming = [entry for entry in every if here in (entry.name, *entry.within)]
    tops: list[Link] = []
    pages: list[Link] = []
    heading: Any = ""
    for words, entries in groups:
        links = [_link(project, entry, entry in naming[-1:]) for entry in entries]
        if len(links) == 1:
            tops += links
            continue
        is_here = any(link.current for link in links)
        tops.append(links[0]._replace(words=words, current="true" if is_here else ""))
        if is_here:
            pages, heading = links, words
    return Navigation(tops, pages, heading)


def _visible(role: str) -> list[Group]:
    allowed = [
        (words, [entry for entry in entries if at_least(role, entry.role)])
        for words, entries in GROUPS
    ]
    return [(words, entries) for words, entries in allowed if entries]


def _link(project: Project, entry: Entry, is_here: bool) -> Link:
    url = reverse(entry.name, args=[project.slug])
    return Link(entry.name, entry.words, url, "page" if is_here else "")

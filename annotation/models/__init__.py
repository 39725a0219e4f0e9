"""Projects, prompts, comparisons, judgments and the pairs that come of them.

The invariants of the design are constraints here wherever a database can hold them.
What follows from several rows (leasing, deciding, freezing) is in services.
"""

from annotation.models.comparisons import (
    Comparison,
    Completion,
    Lease,
    Slot,
    StockReservation,
)
from annotation.models.imports import ImportFault, ImportJob
from annotation.models.judgments import (
    Decision,
    Judgment,
    Verdict,
)
from annotation.models.pairs import (
    PreferencePair,
    RuleVerdict,
)
from annotation.models.projects import (
    Membership,
    Project,
    Prompt,
    Role,
)

__all__ = [
    "Comparison",
    "Completion",
    "Decision",
    "ImportFault",
    "ImportJob",
    "Judgment",
    "Lease",
    "Membership",
    "PreferencePair",
    "Project",
    "Prompt",
    "Role",
    "RuleVerdict",
    "Slot",
    "StockReservation",
    "Verdict",
]

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
from annotation.models.figures import ProjectFigures
from annotation.models.imports import ImportFault, ImportJob
from annotation.models.judgments import (
    Decision,
    Judgment,
    ReviewClaim,
    Verdict,
)
from annotation.models.pairs import (
    LabelledAnswer,
    LetThrough,
    PreferencePair,
    PromptBand,
    RuleVerdict,
)
from annotation.models.preferences import Preferences
from annotation.models.probes import GoldItem, Probe
from annotation.models.projects import (
    Membership,
    Project,
    Prompt,
    Role,
)
from annotation.models.weights import AnnotatorWeight, Weighing

__all__ = [
    "AnnotatorWeight",
    "Comparison",
    "Completion",
    "Decision",
    "GoldItem",
    "ImportFault",
    "ImportJob",
    "Judgment",
    "LabelledAnswer",
    "Lease",
    "LetThrough",
    "Membership",
    "PreferencePair",
    "Preferences",
    "Probe",
    "Project",
    "ProjectFigures",
    "Prompt",
    "PromptBand",
    "ReviewClaim",
    "Role",
    "RuleVerdict",
    "Slot",
    "StockReservation",
    "Verdict",
    "Weighing",
]

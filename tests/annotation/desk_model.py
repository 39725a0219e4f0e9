"""Who may hold and judge what, as plain dicts: the model of `test_annotation_machine`.

Written from the design, not from the services. Users go by their place in a list,
comparisons and gold by their ids, leases by their keys.
"""

from annotation.errors import OtherBody, TooLate


class Model:
    """The rows as they must be; `golds` holds the ids of the project's gold items."""

    golds: list[int]

    def __init__(self):
        super().__init__()
        self.slots = {}  # comparison: [{"state", "lease"}, …]
        self.comparisons = {}  # comparison: {"state", "frozen", "of"}
        self.met = set()  # (user, gold)
        self.newest = {}  # user: the judgment (its lease's key) that draws next
        self.leases = {}  # key: {"user", "comparison", "outcome", "expired"}
        self.judgments = {}  # key of the lease: {"id", "verdict", "winner", "stands"}

    def held_by(self, user, outcome=""):
        return next(
            (
                key
                for key, lease in self.leases.items()
                if lease["user"] == user and lease["outcome"] == outcome
            ),
            None,
        )

    def may_come(self, key):
        """Whether a lease reserved ahead may still be shown to its annotator."""
        user, comparison = self.leases[key]["user"], self.leases[key]["comparison"]
        return (
            self.slot_of(key) is not None
            and self.comparisons[comparison]["state"] == "open"
            and not self.has_judged(user, comparison)
            and not self.has_skipped(user, comparison)
        )

    def put_back(self, key):
        self.release(key, "expired")
        if self.comparisons[self.leases[key]["comparison"]]["state"] == "withdrawn":
            self.settle(self.leases[key]["comparison"])

    def offered(self, user, besides=None):
        """(comparison, slot) that may be taken, those that wait longest first."""
        return [
            (comparison, slot)
            for comparison, slots in sorted(self.slots.items())
            for slot in slots
            if self.comparisons[comparison]["state"] == "open"
            and self.comparisons[comparison]["of"] is None
            and comparison != besides
            and self.is_free(slot)
            and not self.has_judged(user, comparison)
            and not self.has_skipped(user, comparison)
        ]

    def is_free(self, slot):
        return slot["state"] == "open" or (
            slot["state"] == "leased" and self.leases[slot["lease"]]["expired"]
        )

    def is_in_use(self, slot):
        """Nobody has seen what is only reserved."""
        return slot["state"] == "judged" or (
            slot["state"] == "leased"
            and not self.is_free(slot)
            and self.leases[slot["lease"]]["outcome"] == ""
        )

    def slot_of(self, key):
        return next(
            (
                slot
                for slot in self.slots[self.leases[key]["comparison"]]
                if slot["lease"] == key and slot["state"] == "leased"
            ),
            None,
        )

    def has_judged(self, user, comparison):
        return any(
            judgment["stands"]
            and self.leases[key]["user"] == user
            and self.leases[key]["comparison"] == comparison
            for key, judgment in self.judgments.items()
        )

    def has_skipped(self, user, comparison):
        return any(
            lease["outcome"] == "skipped"
            and (lease["user"], lease["comparison"]) == (user, comparison)
            for lease in self.leases.values()
        )

    def give(self, slot, state, key):
        if slot["state"] == "leased" and slot["lease"] != key:
            self.leases[slot["lease"]]["outcome"] = "expired"
        slot.update(state=state, lease=key)

    def release(self, key, outcome):
        lease = self.leases[key]
        slot = self.slot_of(key)
        if slot is not None:
            gone = self.comparisons[lease["comparison"]]["state"] == "withdrawn"
            slot.update(state="withdrawn" if gone else "open", lease=None)
        lease["outcome"] = outcome

    def settle(self, comparison):
        row = self.comparisons[comparison]
        over = {"judged", "withdrawn"} | (
            {"open"} if row["state"] == "withdrawn" else set()
        )
        states = [slot["state"] for slot in self.slots[comparison]]
        if set(states) <= over and "judged" in states:
            row["state"] = "decided"

    def put_off(self, user):
        """The user's own probe that waits for them: an undo ended their lease on it."""
        # The newest alone: an older one, undone and put aside again, stays away.
        own = [pk for pk, row in self.comparisons.items() if row["of"] == user]
        waits = own and (
            self.comparisons[own[-1]]["state"] == "open"
            and self.slots[own[-1]][0]["state"] == "open"
        )
        return own[-1] if waits else None

    def is_due(self, user):
        """Whether gold comes: their newest judgment has drawn none, and some is new."""
        return self.newest.get(user) is not None and any(
            (user, gold) not in self.met for gold in self.golds
        )

    def new_lease(self, lease, user, outcome=""):
        assert lease.key not in self.leases
        self.leases[lease.key] = {
            "user": user,
            "comparison": lease.comparison_id,
            "outcome": outcome,
            "expired": False,
        }

    def expected(self, key, verdict):
        """What must come of it, and the slot it fills where it is stored."""
        lease = self.leases[key]
        if key in self.judgments:
            same = self.judgments[key]["verdict"] == verdict
            return ("replay" if same else OtherBody), None
        if self.slot_of(key) is not None:
            # One reserved ahead, and another of theirs on the same comparison.
            if self.has_judged(lease["user"], lease["comparison"]):
                return TooLate, None
            return None, self.slot_of(key)
        late = lease["outcome"] == "skipped" or self.has_judged(
            lease["user"], lease["comparison"]
        )
        slots = self.slots[lease["comparison"]]
        # Their own later lease gives way before a free slot is taken.
        own = [
            slot
            for slot in slots
            if slot["state"] == "leased"
            and self.leases[slot["lease"]]["user"] == lease["user"]
        ]
        for slot in own + [slot for slot in slots if self.is_free(slot)]:
            if not late:
                return None, slot
        return TooLate, None

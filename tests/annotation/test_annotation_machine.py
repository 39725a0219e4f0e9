"""Random histories of everything that moves a slot, against a model of plain dicts.

The model (`desk_model`) says who may hold and judge what, and after every step each slot,
lease and judgment must be as it says. Probes come in where a judgment is followed by one;
they are for one annotator alone.
"""

from collections import Counter
from datetime import timedelta
from unittest import mock

import pytest
from django.db import transaction
from django.utils import timezone
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from annotation.ending import skip
from annotation.errors import AlreadyUndone, Frozen, Refused
from annotation.judging import judge_and_take, submit_judgment, undo
from annotation.leasing import take_lease
from annotation.models import (
    Comparison,
    Decision,
    Judgment,
    Lease,
    PreferencePair,
    Probe,
    Slot,
)
from annotation.reserving import reserve
from annotation.stock import withdraw_stock
from tests.acts import freeze
from tests.annotation.desk_model import Model
from tests.factories import (
    make_comparison,
    make_gold,
    make_policy,
    make_project,
    make_user,
)

VERDICTS = ["first", "second", "tie", "both_bad"]
EDITS = ["Better.", "Better still.", "Better.\n"]
"""What each user makes of the answer they pick; two say the same."""
PICK = st.integers(0, 5)
"""Which lease, judgment or pair, counted from the newest."""


class Annotation(Model, RuleBasedStateMachine):
    def __init__(self):
        super().__init__()
        # Each history in a savepoint of its own, undone at the end.
        self.history = transaction.atomic()
        self.history.__enter__()

    def teardown(self):
        transaction.set_rollback(True)
        self.history.__exit__(None, None, None)

    @initialize(quotas=st.lists(st.integers(1, 3), min_size=1, max_size=3))
    def begin(self, quotas):
        # Every draw is due, so that probes are many.
        self.project = make_project(settings={"gold_rate": 1.0})
        self.golds = [make_gold(project=self.project).pk for _ in range(2)]
        self.users = [make_user(project=self.project) for _ in range(3)]
        self.later_policy = make_policy(project=self.project)
        for quota in quotas:
            self.add(quota)

    @precondition(
        lambda self: sum(row["of"] is None for row in self.comparisons.values()) < 5
    )
    @rule(quota=st.integers(1, 2))
    def add(self, quota):
        comparison = make_comparison(project=self.project, quota=quota)
        self.comparisons[comparison.pk] = {
            "state": "open",
            "frozen": False,
            "of": None,  # whose probe it is
        }
        self.slots[comparison.pk] = [
            {"state": "open", "lease": None} for _ in range(quota)
        ]

    def new_probe(self, lease, user):
        assert lease.comparison_id not in self.comparisons
        probe = Probe.objects.get(comparison=lease.comparison_id)
        assert probe.annotator == self.users[user]
        assert probe.gold_id in self.golds and (user, probe.gold_id) not in self.met
        assert probe.after.lease_id == self.newest[user]
        self.met.add((user, probe.gold_id))
        self.newest[user] = None
        self.comparisons[lease.comparison_id] = {
            "state": "open",
            "frozen": False,
            "of": user,
        }
        self.slots[lease.comparison_id] = [{"state": "open", "lease": None}]

    # --- What people do --------------------------------------------------------------
    @rule(user=st.integers(0, 2))
    def take(self, user):
        held = self.held_by(user)
        lease = take_lease(self.project, self.users[user])
        if held is not None:
            assert lease.key == held
            self.leases[held]["expired"] = False
            return
        self.took(user, lease)

    def took(self, user, lease, looks_ahead=True):
        """Who holds none is given what is reserved ahead, or a probe that is due, or the
        oldest that waits, or nothing. Who does not look ahead gets it last."""
        if looks_ahead and self.came_from_ahead(user, lease):
            return
        if self.took_probe(user, lease):
            return
        if not self.offered(user) and self.came_from_ahead(user, lease):
            return
        self.took_oldest(user, lease, self.offered(user))

    def came_from_ahead(self, user, lease):
        ahead = self.held_by(user, "ahead")
        if ahead is None:
            return False
        if not self.may_come(ahead):
            self.put_back(ahead)
            return False
        assert lease.key == ahead
        self.leases[ahead].update(outcome="", expired=False)
        return True

    def took_probe(self, user, lease, outcome=""):
        probe = self.put_off(user)
        if probe is None and self.is_due(user):
            self.new_probe(lease, user)
            probe = lease.comparison_id
        if probe is not None:
            assert lease.comparison_id == probe
            self.new_lease(lease, user, outcome)
            self.give(self.slots[probe][0], "leased", lease.key)
        return probe is not None

    def took_oldest(self, user, lease, offered, outcome=""):
        if not offered:
            assert lease is None
            return
        comparison, slot = offered[0]
        assert lease.comparison_id == comparison
        self.new_lease(lease, user, outcome)
        self.give(slot, "leased", lease.key)

    @rule(user=st.integers(0, 2), verdict=st.sampled_from(VERDICTS))
    def take_and_judge(self, user, verdict):
        self.take(user)
        if self.held_by(user) is not None:
            self.judge_lease(self.held_by(user), verdict)

    @rule()
    def all_pick_the_same(self):
        """What one comparison's judgments seldom do by chance."""
        for user in range(3):
            self.take(user)
            if (key := self.held_by(user)) is not None:
                row = Lease.objects.select_related("comparison").get(pk=key)
                is_a_first = row.first_id == row.comparison.a_id
                self.judge_lease(key, "first" if is_a_first else "second")

    @rule(user=st.integers(0, 2), outcome=st.sampled_from(["", "ahead"]))
    def let_the_held_one_expire(self, user, outcome):
        if self.held_by(user, outcome) is not None:
            self.expire(self.held_by(user, outcome))

    @rule(user=st.integers(0, 2))
    def reserve(self, user):
        """The pair after the one on the desk; nothing for who has none there."""
        lease = reserve(self.project, self.users[user])
        held, ahead = self.held_by(user), self.held_by(user, "ahead")
        if held is None:
            assert lease is None
            return
        if ahead is not None and self.may_come(ahead):
            assert lease.key == ahead
            self.leases[ahead]["expired"] = False
            return
        if ahead is not None:
            self.put_back(ahead)
        # A probe alone is not reserved: coming at once while others don't would tell it.
        offered = self.offered(user, self.leases[held]["comparison"])
        if not offered or not self.took_probe(user, lease, "ahead"):
            self.took_oldest(user, lease, offered, "ahead")

    @rule(
        user=st.integers(0, 2),
        verdict=st.sampled_from(VERDICTS),
        has_ahead=st.booleans(),
    )
    def judge_and_go_on(self, user, verdict, has_ahead):
        """The judgment and the next lease in one request."""
        key = self.held_by(user)
        if key is None:
            return
        expected, slot = self.expected(key, verdict)
        row = Lease.objects.get(pk=key)
        if expected is not None:
            with pytest.raises(expected):
                judge_and_take(row, self.users[user], **self.body(key, verdict))
            return
        submitted, following = judge_and_take(
            row, self.users[user], **self.body(key, verdict), has_ahead=has_ahead
        )
        self.keep(key, slot, submitted, row)
        self.took(user, following, looks_ahead=has_ahead)

    @precondition(lambda self: self.leases)
    @rule(pick=PICK, verdict=st.sampled_from(VERDICTS))
    def judge(self, pick, verdict):
        key = list(self.leases)[-1 - pick % len(self.leases)]
        self.judge_lease(key, verdict)

    @precondition(lambda self: self.judgments)
    @rule(pick=PICK)
    def judge_again(self, pick):
        key = list(self.judgments)[-1 - pick % len(self.judgments)]
        self.judge_lease(key, self.judgments[key]["verdict"])

    def judge_lease(self, key, verdict):
        expected, slot = self.expected(key, verdict)
        row = Lease.objects.get(pk=key)
        if expected is not None and expected != "replay":
            with pytest.raises(expected):
                submit_judgment(row, **self.body(key, verdict))
            return
        submitted = submit_judgment(row, **self.body(key, verdict))
        assert submitted.is_replay == (expected == "replay")
        if submitted.is_replay:
            assert submitted.judgment.pk == self.judgments[key]["id"]
            return
        self.keep(key, slot, submitted, row)

    def body(self, key, verdict):
        edited = (
            EDITS[self.leases[key]["user"]] if verdict in ("first", "second") else ""
        )
        return {"verdict": verdict, "edited": edited}

    def keep(self, key, slot, submitted, row):
        self.give(slot, "judged", key)
        self.leases[key]["outcome"] = "judged"
        verdict = submitted.judgment.verdict
        winner = {"first": row.first_id, "second": row.second_id}.get(verdict)
        self.judgments[key] = {
            "id": submitted.judgment.pk,
            "verdict": verdict,
            "winner": winner,
            "stands": True,
        }
        self.newest[self.leases[key]["user"]] = key
        self.settle(self.leases[key]["comparison"])

    @precondition(lambda self: self.leases)
    @rule(pick=PICK)
    def let_expire(self, pick):
        key = list(self.leases)[-1 - pick % len(self.leases)]
        self.expire(key)

    def expire(self, key):
        past = timezone.now() - timedelta(seconds=1)
        Lease.objects.filter(pk=key).update(expires_at=past)
        Slot.objects.filter(lease=key, state="leased").update(expires_at=past)
        self.leases[key]["expired"] = True

    @rule(user=st.integers(0, 2))
    def take_and_skip(self, user):
        self.take(user)
        if self.held_by(user) is not None:
            self.skip_lease(self.held_by(user))

    @precondition(lambda self: self.leases)
    @rule(pick=PICK)
    def skip(self, pick):
        key = list(self.leases)[-1 - pick % len(self.leases)]
        self.skip_lease(key)

    def skip_lease(self, key):
        row = Lease.objects.get(pk=key)
        if self.leases[key]["outcome"] == "judged":
            with pytest.raises(Refused):
                skip(row)
            return
        skip(row)
        comparison = self.comparisons[row.comparison_id]
        if comparison["of"] is not None and comparison["state"] == "open":
            comparison["state"] = "withdrawn"
            slot = self.slots[row.comparison_id][0]
            if slot["state"] == "open":
                slot["state"] = "withdrawn"
        self.release(key, "skipped")
        if self.comparisons[row.comparison_id]["state"] == "withdrawn":
            self.settle(row.comparison_id)

    @precondition(lambda self: self.judgments)
    @rule(pick=PICK)
    def undo(self, pick):
        standing = [
            key for key, judgment in self.judgments.items() if judgment["stands"]
        ]
        # Mostly one that stands; an undone one where none does.
        keys = standing or list(self.judgments)
        self.undo_judgment(keys[-1 - pick % len(keys)])

    @precondition(lambda self: self.judgments)
    @rule(pick=PICK)
    def undo_any(self, pick):
        self.undo_judgment(list(self.judgments)[-1 - pick % len(self.judgments)])

    def undo_judgment(self, key):
        lease, judgment = self.leases[key], self.judgments[key]
        comparison = self.comparisons[lease["comparison"]]
        row = Judgment.objects.get(pk=judgment["id"])
        refusal = (
            AlreadyUndone
            if not judgment["stands"]
            else Frozen
            if comparison["frozen"]
            else None
        )
        if refusal:
            with pytest.raises(refusal):
                undo(row)
            return
        held = self.held_by(lease["user"])
        fresh = undo(row)
        judgment["stands"] = False
        if comparison["state"] == "decided":
            comparison["state"] = "open"
        if held is not None:
            self.release(held, "expired")
        self.new_lease(fresh, lease["user"])
        slot = next(s for s in self.slots[lease["comparison"]] if s["lease"] == key)
        slot.update(state="leased", lease=fresh.key)

    # --- What the machine does ---------------------------------------------------------
    @rule(pick=PICK)
    def freeze(self, pick):
        standing = PreferencePair.objects.filter(
            project=self.project, superseded_at=None
        ).order_by("pk")
        standing.filter(state="unchecked").update(state="accepted")
        if standing:
            pair = standing[pick % len(standing)]
            freeze(self.project, pair)
            self.comparisons[pair.decision.comparison_id]["frozen"] = True

    # Seldom: it ends whatever nobody is at.
    @precondition(lambda self: len(self.leases) % 4 == 3)
    @rule()
    def withdraw(self):
        withdraw_stock(self.project, keep=self.later_policy)
        for comparison, slots in self.slots.items():
            row = self.comparisons[comparison]
            used = any(self.is_in_use(slot) for slot in slots)
            if row["state"] == "open" and row["of"] is None and not used:
                row["state"] = "withdrawn"
                for slot in slots:
                    self.give(slot, "withdrawn", None)

    # --- What must hold after every step -------------------------------------------------
    @invariant()
    def rows_are_as_the_model_says(self):
        slots = {}
        for slot in Slot.objects.order_by("comparison_id", "number"):
            slots.setdefault(slot.comparison_id, []).append(
                {"state": slot.state, "lease": slot.lease_id}
            )
        assert slots == self.slots
        assert dict(Comparison.objects.values_list("pk", "state")) == {
            pk: row["state"] for pk, row in self.comparisons.items()
        }
        assert dict(Lease.objects.values_list("pk", "outcome")) == {
            key: lease["outcome"] for key, lease in self.leases.items()
        }

    @invariant()
    def no_acknowledged_judgment_is_lost_doubled_or_flipped(self):
        stored = {
            judgment.lease_id: {
                "id": judgment.pk,
                "verdict": judgment.verdict,
                "winner": judgment.winner_id,
                "stands": judgment.undone_at is None,
            }
            for judgment in Judgment.objects.all()
        }
        assert stored == self.judgments

    @invariant()
    def decisions_and_pairs_follow_the_judgments(self):
        decided = set(
            Decision.objects.filter(superseded_at=None).values_list(
                "comparison", flat=True
            )
        )
        assert decided == {
            pk for pk, row in self.comparisons.items() if row["state"] == "decided"
        }
        standing = Counter(
            self.leases[key]["comparison"]
            for key, judgment in self.judgments.items()
            if judgment["stands"]
        )
        for pk, judged in Comparison.objects.values_list("pk", "judged"):
            assert judged == standing[pk]
        for pair in PreferencePair.objects.filter(superseded_at=None):
            assert self.comparisons[pair.decision.comparison_id]["of"] is None
            assert pair.decision.superseded_at is None
            is_judged = pair.kind == "judged"
            better = pair.chosen_id if is_judged else pair.rejected_id
            assert better == pair.decision.winner_id
        for decision in Decision.objects.filter(superseded_at=None):
            pairs = decision.pairs.filter(superseded_at=None)
            trains = self.comparisons[decision.comparison_id]["of"] is None
            makes_pair = trains and decision.winner_id is not None
            assert pairs.filter(kind="judged").count() == makes_pair
            edits = {
                EDITS[self.leases[key]["user"]].strip()
                for key, judgment in self.judgments.items()
                if judgment["stands"]
                and judgment["winner"] == decision.winner_id
                and self.leases[key]["comparison"] == decision.comparison_id
            }
            texts = pairs.filter(kind="edited").values_list("chosen__text", flat=True)
            assert sorted(text.strip() for text in texts) == sorted(
                edits if makes_pair else []
            )


@pytest.mark.both_databases
@pytest.mark.django_db
def test_no_history_breaks_the_invariants():
    # However few wait: who may reserve is another test's business.
    with mock.patch("annotation.reserving._enough", lambda *args: 1):
        run_state_machine_as_test(
            Annotation,
            settings=settings(
                max_examples=40,
                stateful_step_count=40,
                deadline=None,
                derandomize=True,
                database=None,
                suppress_health_check=list(HealthCheck),
            ),
        )

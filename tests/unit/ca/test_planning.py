"""What becomes of wanted entries: everything that is wrong with them at once, or the changes that are needed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import count
from typing import Any

import pytest

from ca.entries.changes import Plan
from ca.entries.planning import Planner
from citadel.entry import Entry
from citadel.spiffe import SpiffeId
from tests.unit.ca.values import A_TEST, NODE_1, NODE_2, NOW, entry, selectors

WEB = entry("/web", id="web", revision=4)
SHOP = entry("/shop", id="shop", revision=2)
ENDED = entry("/ended", id="ended", expires_at=NOW)


def wanted(path: str = "/web", parent: SpiffeId = NODE_1, **changes: Any) -> Entry:
    return replace(entry(path, parent, id="", revision=0, created_at=None), **changes)


def planned(*entries: Entry, existing: Sequence[Entry] = (WEB, SHOP, ENDED), pruned: Sequence[Entry] = ()) -> Plan:
    numbers = count(1)
    planner = Planner(
        trust_domain=A_TEST, existing={e.id: e for e in existing}, now=NOW, new_id=lambda: f"new-{next(numbers)}"
    )
    known = {(e.spiffe_id, e.parent_id, e.selectors): e.id for e in existing}
    same = [known.get((e.spiffe_id, e.parent_id, e.selectors)) for e in entries]
    return planner.plan(entries, same, pruned=pruned)


def told(plan: Plan) -> list[tuple[str, str, tuple[str, ...]]]:
    assert not plan.problems
    return [
        (change.kind.value, change.entry.id, change.changed_terms() if change.kind == "updated" else ())
        for change in plan.changes
    ]


def test_what_is_new_is_created_what_differs_is_updated_and_the_rest_stays() -> None:
    plan = planned(wanted("/new"), wanted("/web", hint="x", dns_names=("w",)), wanted("/shop"))
    assert told(plan) == [
        ("created", "new-1", ()),
        ("updated", "web", ("dns_names", "hint")),
        ("unchanged", "shop", ()),
    ]
    made, changed, kept = (change.entry for change in plan.changes)
    assert (made.revision, made.created_at) == (1, NOW)
    assert (changed.revision, changed.created_at) == (5, WEB.created_at)
    assert kept is SHOP


def test_an_id_means_its_entry_whatever_else_is_said() -> None:
    plan = planned(wanted("/renamed", NODE_2, id="web", selectors=selectors("unix:uid:7")))
    assert told(plan) == [("updated", "web", ("spiffe_id", "parent_id", "selectors"))]


def test_two_entries_may_exchange_what_can_exist_once() -> None:
    plan = planned(wanted("/shop", id="web"), wanted("/web", id="shop"))
    assert told(plan) == [("updated", "web", ("spiffe_id",)), ("updated", "shop", ("spiffe_id",))]


def test_what_a_pruned_entry_had_is_free() -> None:
    plan = planned(wanted("/shop", id="web"), pruned=[WEB, SHOP])
    assert told(plan) == [("updated", "web", ("spiffe_id",)), ("deleted", "shop", ())]


def test_pruning_spares_what_is_wanted() -> None:
    assert told(planned(wanted("/web"), pruned=[WEB, SHOP])) == [("unchanged", "web", ()), ("deleted", "shop", ())]


@pytest.mark.parametrize("entry_", [wanted("/ended", expires_at=NOW), wanted(id="web", revision=1)])
def test_what_is_already_so_needs_no_leave(entry_: Entry) -> None:
    assert [kind for kind, _, _ in told(planned(entry_))] == ["unchanged"]


@pytest.mark.parametrize(
    ("entries", "problems"),
    [
        ([wanted(id="gone")], [(0, "id", "entry_not_found")]),
        ([wanted(hint="x", revision=3)], [(0, "revision", "entry_changed")]),
        ([wanted("/new"), wanted("/new", hint="x")], [(1, "", "entry_duplicate")]),
        ([wanted("/web"), wanted("/web", id="web")], [(1, "", "entry_duplicate")]),
        ([wanted("/shop", id="web")], [(0, "", "entry_duplicate")]),
        (
            [wanted("/shop", id="web"), wanted("/shop", hint="x")],
            [(0, "", "entry_duplicate"), (1, "", "entry_duplicate")],
        ),
        ([wanted("/citadel/x")], [(0, "spiffe_id", "entry_reserved_id")]),
        (
            [wanted("/a", selectors=frozenset(), dns_names=("*",)), wanted("/b"), wanted("/c", expires_at=NOW)],
            [
                (0, "selectors", "entry_no_selectors"),
                (0, "dns_names", "entry_bad_dns_name"),
                (2, "expires_at", "entry_expired"),
            ],
        ),
    ],
)
def test_everything_that_is_wrong_is_found(entries: list[Entry], problems: list[tuple[int, str, str]]) -> None:
    found = [(problem.index, problem.field, problem.error.reason.value) for problem in planned(*entries).problems]
    assert sorted(found) == sorted(problems)

"""The demo says that it worked only when it did."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from cli.demo.bookinfo import Seen
from cli.demo.envoy import Roots
from cli.demo.load import Tally
from cli.demo.observe import Sighting
from cli.demo.plan import Plan, make_plan
from cli.demo.rotation import RootRotation
from cli.demo.verdict import Refusal, is_enough, problems
from cli.demo.visits import Visit

NEW = frozenset({"0b"})
ROTATED = RootRotation(
    phase="done",
    root="0b",
    roots={name: Roots(trusted=NEW, own=NEW) for name in ("productpage", "reviews")},
)
VISITS = [
    Visit(who="jason", expected=Seen(version="v2", user="jason"), seen=Seen(version="v2", user="jason")),
    Visit(who="a forger", expected=Seen(refusal="401 no"), seen=Seen(refusal="401 no")),
]
REFUSED = [Refusal(who="a stranger", words="no certificate")]


@pytest.fixture
def plan(tmp_path: Path) -> Plan:
    return make_plan(
        folder=tmp_path,
        requests=500,
        leaf_lifetime=timedelta(seconds=8),
        pace=40,
        most_seconds=50,
        keep=False,
        as_root=False,
    )


def seen(*, rotations: int = 3, handshakes: int = 500) -> list[Sighting]:
    return [
        Sighting(name=name, identity="i", serial="s", expires="e", rotations=rotations, handshakes=handshakes)
        for name in ("productpage", "reviews")
    ]


def test_a_good_run_has_no_problems(plan: Plan) -> None:
    assert problems(plan, Tally(done=500), seen(), ROTATED, VISITS, REFUSED) == []


@pytest.mark.parametrize(
    ("tally", "sightings", "refusals", "said"),
    [
        (Tally(done=500, failures=Counter({"503": 1})), seen(), REFUSED, "1 requests failed: 503"),
        (Tally(done=499), seen(), REFUSED, "only 499 of 500"),
        (Tally(done=500), seen(rotations=2), REFUSED, "rotated 2 times instead of 3"),
        (Tally(done=500), seen(handshakes=499), REFUSED, "499 TLS handshakes for 500 requests"),
        (Tally(done=500), seen(), [Refusal(who="a stranger", words="")], "a stranger was let in"),
    ],
)
def test_whatever_is_missing_is_a_problem(
    plan: Plan, tally: Tally, sightings: list[Sighting], refusals: list[Refusal], said: str
) -> None:
    assert any(said in problem for problem in problems(plan, tally, sightings, ROTATED, VISITS, refusals))


@pytest.mark.parametrize(
    ("rotation", "said"),
    [
        (RootRotation(), ["the root was not rotated"]),
        (
            RootRotation(phase="observe", waits_for=["node-1/3: it is silent"]),
            ["the rotation of the root is not done but in observe, waiting for node-1/3: it is silent"],
        ),
        (RootRotation(phase="renew"), ["the rotation of the root is not done but in renew, waiting for nobody"]),
        (
            replace(ROTATED, alarm="went on without node-1"),
            ["the rotation of the root raised an alarm: went on without node-1"],
        ),
        (
            replace(ROTATED, roots={"reviews": Roots(trusted=NEW, own=frozenset())}),
            ["the certificate of reviews does not hang on the new root"],
        ),
        (
            replace(ROTATED, roots={"reviews": Roots(trusted=frozenset({"0a", "0b"}), own=NEW)}),
            ["reviews trusts 2 roots instead of the new one alone"],
        ),
    ],
)
def test_a_rotation_of_the_root_that_is_not_whole_is_a_problem(
    plan: Plan, rotation: RootRotation, said: list[str]
) -> None:
    assert problems(plan, Tally(done=500), seen(), rotation, VISITS, REFUSED) == said


@pytest.mark.parametrize(
    ("instead", "said"),
    [
        (Seen(version="v1", user="jason"), "jason got v1 for jason instead of v2 for jason"),
        (Seen(version="v2"), "jason got v2 for nobody instead of v2 for jason"),
        (Seen(refusal="503 x"), "jason got 503 x instead of v2 for jason"),
    ],
)
def test_a_visit_that_went_otherwise_is_a_problem(plan: Plan, instead: Seen, said: str) -> None:
    visits = [replace(VISITS[0], seen=instead), VISITS[1]]
    assert problems(plan, Tally(done=500), seen(), ROTATED, visits, REFUSED) == [said]


@pytest.mark.parametrize(
    ("done", "rotations", "enough"), [(500, 3, True), (499, 3, False), (500, 2, False), (10_000, 2, False)]
)
def test_the_load_goes_on_until_requests_and_rotations_are_enough(
    plan: Plan, done: int, rotations: int, enough: bool
) -> None:
    assert is_enough(plan, Tally(done=done), seen(rotations=rotations)) is enough


def test_sidecars_of_an_ordinary_user_are_told_apart_by_path(plan: Plan) -> None:
    selectors = {str(sidecar.selector) for sidecar in plan.sidecars}
    assert len(selectors) == 3
    assert all(selector.startswith("unix:path:") for selector in selectors)

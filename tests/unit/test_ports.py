"""Servers of tests are never given each other's ports."""

from __future__ import annotations

from itertools import combinations

from tests.ports import free_port, ports_of


def test_no_port_is_given_twice() -> None:
    given = [free_port() for _ in range(1000)]
    assert len({*given}) == len(given)


def test_workers_share_no_port_and_leave_none_out() -> None:
    parts = [ports_of(f"gw{worker}", 3) for worker in range(3)]
    assert all(not {*one} & {*other} for one, other in combinations(parts, 2))
    assert {*ports_of("gw0", 1)} == {port for part in parts for port in part}

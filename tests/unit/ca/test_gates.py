"""Room for callers without an identity, as it is shared out before a request is read."""

from __future__ import annotations

from contextlib import ExitStack
from types import SimpleNamespace
from typing import Any

import pytest

from ca.api.gates import AgentGate, AnonymousGate, proxy_calls
from ca.api.istio import ISTIO_CA
from ca.api.settings import LimitSettings
from citadel.errors import ResourceExhausted
from citadel.gate import Gate
from citadel.in_flight import InFlight

METHOD = f"/{ISTIO_CA}/CreateCertificate"
CHECK, WATCH = "/grpc.health.v1.Health/Check", "/grpc.health.v1.Health/Watch"


def call_from(host: int) -> SimpleNamespace:
    return SimpleNamespace(peer=lambda: f"ipv4:10.0.0.{host}:41234")


@pytest.mark.parametrize(("most", "share"), [(1000, 250), (8, 2), (1, 1)])
def test_one_address_cannot_take_all_calls_of_proxies(most: int, share: int) -> None:
    gate = AnonymousGate(InFlight(most_of_one=1, what="calls"), proxies=proxy_calls(LimitSettings(proxy_calls=most)))
    with ExitStack() as calls:
        for _ in range(share):
            calls.enter_context(gate.admit(METHOD, call_from(1)))
        with pytest.raises(ResourceExhausted, match=f"{share} calls of this caller"):
            calls.enter_context(gate.admit(METHOD, call_from(1)))
        for number in range(share, most):
            calls.enter_context(gate.admit(METHOD, call_from(2 + number // share)))
        with pytest.raises(ResourceExhausted, match=f"{most} calls of all callers together"):
            calls.enter_context(gate.admit(METHOD, call_from(200)))


@pytest.mark.parametrize("is_anonymous", [True, False])
def test_whoever_watches_health_for_ever_takes_nothing_but_watches_from_others(is_anonymous: bool) -> None:
    calls = InFlight(most=2, most_of_one=1, what="calls")
    gate: Gate = AnonymousGate(calls, proxies=proxy_calls(LimitSettings()))
    if not is_anonymous:
        gate = AgentGate(roster=_nobody(), children=_nobody(), most_of_one=1)
    with ExitStack() as open_calls:
        for number in range(64):
            open_calls.enter_context(gate.admit(WATCH, call_from(number // 16)))
        with pytest.raises(ResourceExhausted, match="64 watches of health of all callers together"):
            open_calls.enter_context(gate.admit(WATCH, call_from(200)))
        open_calls.enter_context(gate.admit(CHECK, call_from(1)))
        if is_anonymous:
            for host in (1, 200):
                open_calls.enter_context(gate.admit("/citadel.v1.Bootstrap/Join", call_from(host)))


def test_one_address_cannot_take_all_calls_of_health() -> None:
    gate = AnonymousGate(InFlight(most_of_one=1, what="calls"), proxies=proxy_calls(LimitSettings()))
    for method, what in ((WATCH, "watches"), (CHECK, "checks")):
        with ExitStack() as calls:
            for _ in range(16):
                calls.enter_context(gate.admit(method, call_from(1)))
            with pytest.raises(ResourceExhausted, match=f"16 {what} of health of this caller"):
                calls.enter_context(gate.admit(method, call_from(1)))
            calls.enter_context(gate.admit(method, call_from(2)))


def _nobody() -> Any:
    """A roster, or children, that are asked for nobody's health."""
    return SimpleNamespace()

"""Room for callers without an identity, as it is shared out before a request is read."""

from __future__ import annotations

from contextlib import ExitStack
from types import SimpleNamespace

import pytest

from ca.api.gates import AnonymousGate, proxy_calls
from ca.api.istio import ISTIO_CA
from ca.api.settings import LimitSettings
from citadel.errors import ResourceExhausted
from citadel.in_flight import InFlight

METHOD = f"/{ISTIO_CA}/CreateCertificate"


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

"""What is said of keys while something is wrong with Vault."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from ca.keys.sealing import KeyPurpose
from ca.keys.transit.condition import KeysCondition
from citadel._wire import admin_pb2
from citadel.errors import Reason, Unavailable
from citadel.probes import Health

NOW = datetime(2026, 1, 1, tzinfo=UTC)
LOST = Unavailable(Reason.VAULT_KEY_LOST, "the key transit/keys/x is no longer in Vault")
AWAY = Unavailable(Reason.VAULT_UNAVAILABLE, "Vault is sealed")


def condition(**others: Any) -> KeysCondition:
    fields: dict[str, Any] = {
        "are_made_there": True,
        "trouble": None,
        "since": None,
        "lifetime": timedelta(hours=1),
        "issuer_ends": NOW + timedelta(days=2),
    }
    return KeysCondition(**fields | others)


@pytest.mark.parametrize(
    ("others", "words"),
    [
        ({}, "in Vault"),
        ({"are_made_there": False}, "sealed by Vault"),
        (
            {"trouble": LOST, "since": NOW, "concerns": KeyPurpose.ISSUER},
            (
                "nothing new is issued; workloads keep what they have, which begins to end about"
                " 2026-01-01T00:30:00+00:00, in 30m (vault_key_lost)"
            ),
        ),
        (
            {"trouble": LOST, "since": NOW, "concerns": KeyPurpose.JWT},
            "no tokens are signed; certificates are (vault_key_lost)",
        ),
        (
            {"trouble": LOST, "since": NOW, "concerns": KeyPurpose.ROOT},
            (
                "the root signs no other authority; the one that issues goes on until 2026-01-03T00:00:00+00:00, in 2d"
                " (vault_key_lost)"
            ),
        ),
        (
            {"trouble": AWAY, "since": NOW - timedelta(minutes=10)},
            (
                "nothing new is issued; workloads keep what they have, which begins to end about"
                " 2026-01-01T00:20:00+00:00, in 20m (vault_unavailable)"
            ),
        ),
        (
            {"trouble": AWAY, "since": NOW - timedelta(hours=1)},
            (
                "nothing new is issued; workloads keep what they have, which has begun to end about"
                " 2025-12-31T23:30:00+00:00 (vault_unavailable)"
            ),
        ),
        (
            {"trouble": AWAY, "are_made_there": False},
            (
                "keys that are open sign on until 2026-01-03T00:00:00+00:00, in 2d; no others are made or opened"
                " (vault_unavailable)"
            ),
        ),
    ],
)
def test_it_is_said_what_goes_on_and_until_when(others: dict[str, Any], words: str) -> None:
    check = condition(**others).check(NOW)
    assert (check.text, check.health) == (words, Health.DEGRADED if "trouble" in others else Health.GOOD)


def test_what_it_means_is_added_to_what_is_wrong() -> None:
    status = admin_pb2.VaultStatus(good=False, reason="vault_unavailable", message="Vault is sealed")
    condition(trouble=AWAY, since=NOW).tell(status, NOW)
    assert status.message.startswith("Vault is sealed; nothing new is issued;")
    status = admin_pb2.VaultStatus(good=False, reason="vault_login_refused", message="the token ends")
    condition(trouble=LOST, since=NOW, concerns=KeyPurpose.JWT).tell(status, NOW)
    assert status.message == f"the token ends; {LOST.message}; no tokens are signed; certificates are"

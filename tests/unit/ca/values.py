"""The values that the tests of the server share."""

from __future__ import annotations

from datetime import UTC, datetime
from itertools import count
from typing import Any, Final

from cryptography.hazmat.primitives.asymmetric import ec, rsa

from ca.agents.model import Agent
from ca.audit.model import Actor
from ca.keys.kinds import AuthorityKey, KeyKind
from citadel.entry import Entry
from citadel.reserved import agent_id, server_id
from citadel.selector import Selector
from citadel.spiffe import SpiffeId, TrustDomain

NOW: Final = datetime(2026, 1, 1, tzinfo=UTC)
A_TEST: Final = TrustDomain("a.test")
ADMINISTRATOR: Final = Actor.local(1000)
SERVER: Final = server_id(A_TEST)
NODE_1: Final = agent_id(A_TEST, "node-1")
NODE_2: Final = agent_id(A_TEST, "node-2")

_numbers = count(1)


def selectors(*texts: str) -> frozenset[Selector]:
    return frozenset(Selector.parse(text) for text in texts)


def entry(path: str = "/web", parent: SpiffeId = NODE_1, *facts: str, **changes: Any) -> Entry:
    """An entry that every rule allows, with an id of its own."""
    profile: dict[str, Any] = {
        "id": f"entry-{next(_numbers)}",
        "spiffe_id": SpiffeId(A_TEST, path),
        "parent_id": parent,
        "selectors": selectors(*(facts or (("node:rack:a1",) if parent == SERVER else ("unix:uid:1000",)))),
        "revision": 1,
        "created_at": NOW,
    }
    return Entry(**(profile | changes))


def agent(spiffe_id: SpiffeId = NODE_1, *facts: str, **changes: Any) -> Agent:
    """An agent with these facts about its node."""
    profile: dict[str, Any] = {
        "spiffe_id": spiffe_id,
        "key": "0" * 64,
        "next_key": None,
        "selectors": selectors(*facts),
        "banned": False,
        "joined_at": NOW,
    }
    return Agent(**(profile | changes))


def a_key(kind: KeyKind) -> AuthorityKey:
    """A new private key of this kind."""
    match kind:
        case KeyKind.EC_P256:
            return ec.generate_private_key(ec.SECP256R1())
        case KeyKind.EC_P384:
            return ec.generate_private_key(ec.SECP384R1())
        case KeyKind.RSA_2048:
            return rsa.generate_private_key(public_exponent=65537, key_size=2048)
        case KeyKind.RSA_4096:
            return rsa.generate_private_key(public_exponent=65537, key_size=4096)

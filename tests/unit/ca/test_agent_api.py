"""What an agent asks for, as it is taken from its call."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from ca.api.agent_api import AgentService
from citadel.errors import InvalidArgument, Reason
from tests.unit.ca.values import agent


class Roster:
    """Knows everybody."""

    async def authenticate(self, _leaf: bytes) -> tuple[Any, Any]:
        return agent(), None


class Refusing:
    """Both issuers, which take no batch."""

    def check_size(self, count: int) -> None:
        raise InvalidArgument(Reason.BATCH_TOO_LARGE, f"{count} are too many")


class Untouched:
    """The requests of a batch that nobody may go through."""

    def __len__(self) -> int:
        return 30_000

    def __iter__(self) -> Iterator[Any]:
        raise AssertionError


@pytest.mark.parametrize("method", ["SignX509Svids", "SignJwtSvids"])
async def test_a_batch_is_refused_for_its_size_before_it_is_gone_through(method: str) -> None:
    unused: Any = SimpleNamespace()
    issuer: Any = Refusing()
    roster: Any = Roster()
    service = AgentService(
        roster=roster,
        sources=unused,
        issuer=issuer,
        jwt_issuer=issuer,
        sessions=unused,
        sightings=unused,
        credentials=unused,
        tally=unused,
        clock=unused,
    )
    context = SimpleNamespace(auth_context=lambda: {"x509_pem_cert": [b"leaf"]})
    with pytest.raises(InvalidArgument) as refused:
        await getattr(service, method)(SimpleNamespace(requests=Untouched()), context)
    assert refused.value.reason is Reason.BATCH_TOO_LARGE

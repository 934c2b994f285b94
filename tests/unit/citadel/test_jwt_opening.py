"""Fetching that is made late fetches by the same rules."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Final

import pytest

from citadel.errors import CitadelError, Reason
from citadel.jwt.keys import KeySource
from citadel.jwt.opening import LateKeyFetcher

LOOPBACK: Final = KeySource(
    issuer="https://127.0.0.1",
    url="https://127.0.0.1/keys",
    timeout=timedelta(seconds=20),
    allow_private=False,
    ca_file=None,
)


async def test_who_asks_first_and_who_asks_meanwhile_are_answered_by_the_fetcher_that_judges_addresses() -> None:
    fetch = LateKeyFetcher()
    answers = await asyncio.gather(fetch(LOOPBACK), fetch(LOOPBACK), return_exceptions=True)
    for answer in answers:
        assert isinstance(answer, CitadelError)
        assert answer.reason is Reason.ADDRESS_REFUSED
    with pytest.raises(CitadelError):
        await fetch(LOOPBACK)

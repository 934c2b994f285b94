"""Fetching a bundle document from its endpoint, which may be anybody: time and size are limited, targets are judged."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Iterator
from functools import partial
from typing import Final

import httpx

from ca.federation.faults import bad_answer, unreachable, untrusted
from ca.federation.model import Federation
from ca.federation.proving import SpiffeProofs, WebTrust
from ca.federation.rules import MAX_DOCUMENT_BYTES, url_problem
from ca.federation.settings import Profile
from citadel.bundle import TrustBundle
from citadel.clock import Clock
from citadel.web.asking import AskError, Fault, get, shown
from citadel.web.connections import GuardedConnections
from citadel.web.lookups import LookUp, Lookups, look_up_by_system

_PATIENCE: Final = 10.0  # seconds for all of it, redirects included


class BundleFetcher:
    """Fulfils `ca.federation.refreshing.FetchBundle`, for both profiles."""

    def __init__(
        self, *, web: WebTrust, clock: Clock, look_up: LookUp = look_up_by_system, patience: float = _PATIENCE
    ) -> None:
        self._web = web
        self._proofs = SpiffeProofs(clock=clock)
        self._lookups = Lookups(look_up)
        self._patience = patience

    async def __call__(self, federation: Federation, trust: TrustBundle | None) -> bytes:
        url = httpx.URL(federation.endpoint_url)
        try:
            async with asyncio.timeout(self._patience):
                ask = await self._connections(federation, trust)
                return (await get(ask.open, url, judge=_judge, most_bytes=MAX_DOCUMENT_BYTES)).body
        except TimeoutError as error:
            raise unreachable(f"{shown(url)}: no whole answer within {self._patience:g} s") from error
        except httpx.InvalidURL as error:
            raise untrusted(f"{shown(url)} leads to what is no URL: {error}") from error
        except AskError as error:
            raise _refusal(error) from error

    async def _connections(self, federation: Federation, trust: TrustBundle | None) -> GuardedConnections:
        """For this one fetch. No session is taken up again: who was believed once is checked again."""
        # One's own network too: an administrator has named each endpoint.
        guarded = partial(
            GuardedConnections,
            resolve=partial(self._lookups.addresses, federation.trust_domain),
            allow_private=True,
        )
        if federation.profile is Profile.HTTPS_WEB:
            return guarded(tls=await asyncio.to_thread(self._web.context))
        if federation.endpoint_id is None or trust is None:
            of = (federation.endpoint_id or federation).trust_domain
            raise untrusted(f"there is no bundle of {of}, by which its endpoint would be believed")
        proof = await self._proofs.of(federation.trust_domain, federation.endpoint_id, trust)
        return guarded(tls=proof.context, check=proof.check)


def _judge(target: httpx.URL, before: httpx.URL | None) -> None:
    """Each target is an endpoint's URL as the first one is (FED-17, FED-19)."""
    if problem := url_problem(str(target)):
        raise untrusted(f"{shown(before)} redirects to what {problem}" if before is not None else problem)


def _refusal(error: AskError) -> Exception:
    match error.fault:
        case Fault.REDIRECTS:
            return untrusted(error.message)
        case Fault.NETWORK if any(isinstance(each, ssl.SSLCertVerificationError) for each in _causes(error)):
            return untrusted(error.message)
        case Fault.NETWORK:
            return unreachable(error.message)
        case _:
            return bad_answer(error.message)


def _causes(error: BaseException) -> Iterator[BaseException]:
    following: BaseException | None = error
    while following is not None:
        yield following
        following = following.__cause__ or following.__context__

"""A certificate authority in memory, and a `Signer` that behaves as the server does, with faults on request."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta

from cryptography import x509

from citadel.bundle import TrustBundle
from citadel.clock import Clock
from citadel.entry import Entry
from citadel.errors import CitadelError, Reason, ResourceExhausted, Unavailable
from citadel.reserved import SERVER_DNS_NAME, server_id
from citadel.selector import Selector
from citadel.spiffe import SpiffeId, TrustDomain
from sds.keep.keys import PrivateKey, new_key, to_pem
from sds.keep.signer import Signed, SigningRequest
from tests import certificates

A_TEST = TrustDomain("a.test")


class FakeAuthority:
    """A root and an intermediate of `a.test`, or of another domain, valid around `now`."""

    def __init__(
        self,
        now: datetime,
        name: str = "one",
        sequence: int = 1,
        trust_domain: TrustDomain = A_TEST,
        *,
        shared_root: certificates.Signed | None = None,
    ) -> None:
        """Under `shared_root`, which names no trust domain, the intermediate is confined to its own."""
        dates: dict[str, object] = {"not_before": now - timedelta(hours=1), "not_after": now + timedelta(days=30)}
        self.trust_domain = trust_domain
        self.root = shared_root or certificates.root(f"root {name}", str(trust_domain.id), **dates)
        if shared_root is not None:
            dates["extra"] = (certificates.permitted(trust_domain.name),)
        self.issuer = certificates.intermediate(self.root, f"issuer {name}", str(trust_domain.id), **dates)
        self.bundle = TrustBundle(
            trust_domain=trust_domain, x509_authorities=(self.root.certificate,), sequence=sequence
        )

    def issue(
        self, spiffe_id: SpiffeId | str, public: object, now: datetime, lifetime: timedelta, dns: Sequence[str] = ()
    ) -> list[bytes]:
        """A chain for the public key of `public`: a private key or a request."""
        leaf = certificates.leaf(
            self.issuer,
            str(spiffe_id),
            dns=dns,
            key=public,
            not_before=now - timedelta(seconds=10),
            not_after=now + lifetime,
        )
        return [leaf.der, self.issuer.der]

    def server_pem(self, now: datetime) -> tuple[bytes, bytes]:
        """Key and chain, in PEM, of a server."""
        key = new_key("ec-p256")
        chain = self.issue(server_id(self.trust_domain), key, now, timedelta(hours=1), dns=[SERVER_DNS_NAME])
        return to_pem(key), to_pem_chain(chain)


def to_pem_chain(chain: Sequence[bytes]) -> bytes:
    return b"".join(x509.load_der_x509_certificate(der).public_bytes(certificates.Encoding.PEM) for der in chain)


def entry(name: str, **changes: object) -> Entry:
    fields: dict[str, object] = {
        "id": name,
        "spiffe_id": A_TEST.member(name),
        "parent_id": A_TEST.member("citadel", "agent", "n1"),
        "selectors": frozenset({Selector("unix", "uid:1000")}),
    }
    return Entry(**(fields | changes))  # type: ignore[arg-type] # a table of changes


class FakeSigner:
    """Signs for `entries`. `away` fails every call, `gate` holds answers back, `tamper` changes an answer."""

    def __init__(self, authority: FakeAuthority, clock: Clock, lifetime: timedelta = timedelta(seconds=100)) -> None:
        self.authority = authority
        self.clock = clock
        self.lifetime = lifetime
        self.entries: dict[str, Entry] = {}
        self.calls: list[list[SigningRequest]] = []
        self.timeouts: list[timedelta] = []
        self.refusals: dict[str, CitadelError] = {}
        self.poison: dict[str, CitadelError] = {}
        self.tamper: dict[str, Callable[[Entry, PrivateKey], Sequence[bytes]]] = {}
        self.away = False
        self.largest = 500
        self.gate = asyncio.Event()
        self.gate.set()

    async def sign(self, requests: Sequence[SigningRequest], *, within: timedelta) -> Sequence[Signed | CitadelError]:
        self.calls.append(list(requests))
        self.timeouts.append(within)
        await self.gate.wait()
        if self.away:
            raise Unavailable(Reason.SERVER_UNREACHABLE, "away")
        if len(requests) > self.largest:
            raise ResourceExhausted(Reason.BATCH_TOO_LARGE, "too many")
        for request in requests:
            if request.entry_id in self.poison:
                raise self.poison[request.entry_id]
        return [self._one(request) for request in requests]

    def _one(self, request: SigningRequest) -> Signed | CitadelError:
        if request.entry_id in self.refusals:
            return self.refusals[request.entry_id]
        asked = self.entries[request.entry_id]
        csr = x509.load_der_x509_csr(request.csr)
        assert csr.is_signature_valid
        if request.entry_id in self.tamper:
            chain = self.tamper[request.entry_id](asked, csr)
        else:
            chain = self.authority.issue(
                asked.spiffe_id, csr, self.clock.now(), asked.x509_svid_ttl or self.lifetime, dns=asked.dns_names
            )
        return Signed(chain=tuple(chain), lifetime_limited_by="default")

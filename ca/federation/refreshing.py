"""One refresh of a foreign bundle: fetched, understood, put in force; what is wrong is counted and told."""

from __future__ import annotations

import asyncio
import hashlib
from collections import Counter
from collections.abc import Callable
from typing import Final, Protocol

import structlog

from ca.audit.model import Act
from ca.federation.faults import bad_answer
from ca.federation.known import ForeignBundles, Source
from ca.federation.model import Federation
from ca.federation.rules import check_document, check_owner, only_takes_away
from ca.federation.standing import Following
from citadel.bundle import MAX_BUNDLE_BYTES, TrustBundle
from citadel.bundle_keys import Skipped, tell_in_log
from citadel.clock import Clock
from citadel.errors import CitadelError, NotFound, Reason, ResourceExhausted
from citadel.limiter import RateLimiter
from citadel.spiffe import TrustDomain
from citadel.strict_json import load_object
from citadel.tally import Tally
from citadel.unexpected import ASKS_TO_END

_log = structlog.get_logger(__name__)

_SHORT_BYTES: Final = 32 * 1024  # some thirty roots are parsed sooner than a thread begins to run
# Each change is written, and pushed to whoever federates. Rotations of a whole mesh at once make some ten of them.
_CHANGES_PER_SECOND: Final = 0.2
_CHANGES_AT_ONCE: Final = 20.0
# Refusals of what somebody says; the others say that nothing was heard.
_SUSPICIOUS: Final = frozenset(
    {Reason.ENDPOINT_UNTRUSTED, Reason.ENDPOINT_BAD_ANSWER, Reason.ADDRESS_REFUSED, Reason.BUNDLE_OLDER}
)


class FetchBundle(Protocol):
    """How a document comes from its endpoint. `ca.federation.fetching` does it."""

    async def __call__(self, federation: Federation, trust: TrustBundle | None) -> bytes:
        """The document. `trust` is the bundle of the trust domain that the endpoint's SPIFFE ID is of.

        Raises `CitadelError`: `endpoint_unreachable`, `endpoint_untrusted`, `endpoint_bad_answer`, `address_refused`.
        """
        ...


class Refreshing:
    """Fetches for federations, each of which fetches once at a time. `failures` counts what went wrong, by reason."""

    def __init__(
        self,
        *,
        bundles: ForeignBundles,
        own_bundle: Callable[[], TrustBundle],
        fetch: FetchBundle,
        tally: Tally,
        clock: Clock,
    ) -> None:
        self._bundles = bundles
        self._own_bundle = own_bundle
        self._fetch = fetch
        self._tally = tally
        self._clock = clock
        self._pace = RateLimiter(clock=clock, per_second=_CHANGES_PER_SECOND, burst=_CHANGES_AT_ONCE)
        self.failures: Counter[Reason] = Counter()

    async def refresh(self, known: Following, *, act: Act | None, force: bool) -> None:
        """Fetch, and take what comes; with `force` also what is older. `act` is of who asked for it.

        Raises what `FetchBundle` and `ForeignBundles.put` do, or `NotFound` where the federation has ended meanwhile;
        `internal` for whatever else an endpoint can bring about, so that it is counted and asked again.
        """
        async with known.fetching:
            try:
                await self._fetch_and_take(known, act=act, force=force)
            except CitadelError as error:
                if not known.has_ended:
                    self._note_failed(known, error, is_asked_for=act is not None)
                raise
            if known.error is not None:
                _log.info("foreign bundle fetched again", trust_domain=known.federation.trust_domain.name)
            known.note_good(self._clock.now())

    async def _fetch_and_take(self, known: Following, *, act: Act | None, force: bool) -> None:
        try:
            document = await self._fetch(known.federation, self._trust_of(known.federation))
            await self._take(known, document, act=act, force=force)
        except (CitadelError, *ASKS_TO_END):
            raise
        except BaseException as error:
            fault = CitadelError(Reason.INTERNAL, f"the server's own fault, {type(error).__name__}: see its log")
            if known.is_news(fault):
                _log.exception("foreign bundle not taken", trust_domain=known.federation.trust_domain.name)
            raise fault from error

    async def _take(self, known: Following, document: bytes, *, act: Act | None, force: bool) -> None:
        trust_domain, digest = known.federation.trust_domain, hashlib.sha256(document).digest()
        if act is None and known.taken == (digest, self._bundles.get(trust_domain)):
            known.is_hasty = False
            return
        own = self._own_bundle().trust_domain
        if len(document) <= _SHORT_BYTES:
            bundle, skipped = _parsed(own, trust_domain, document)
        else:
            bundle, skipped = await asyncio.to_thread(_parsed, own, trust_domain, document)
        if skipped is not None and skipped != known.skipped:  # or an endpoint could fill the log
            tell_in_log(trust_domain, skipped)
        known.skipped = skipped
        if not self._may_take(known, bundle, is_asked_for=act is not None):
            return
        async with known.changing:
            if known.has_ended:  # while it was fetched
                raise NotFound(Reason.FEDERATION_NOT_FOUND, f"the federation with {trust_domain} has ended")
            is_other = await self._bundles.put(bundle, Source.FEDERATION, self._clock.now(), act=act, force=force)
            known.taken = digest, self._bundles.get(trust_domain)
        if is_other:
            _log.info(
                "foreign bundle taken",
                trust_domain=trust_domain.name,
                url=known.federation.place,
                sequence=bundle.sequence,
                x509_authorities=len(bundle.x509_authorities),
                jwt_authorities=len(bundle.jwt_authorities),
            )

    def _may_take(self, known: Following, bundle: TrustBundle, *, is_asked_for: bool) -> bool:
        """Not where it changes so often that proxies would do nothing else than follow; the next fetch may.

        What only takes away is never late, nor what an administrator asks for.
        """
        before = self._bundles.get(bundle.trust_domain)
        if is_asked_for or before is None or before.bundle == bundle or only_takes_away(before.bundle, bundle):
            return True
        try:
            self._pace.admit(bundle.trust_domain)
        except ResourceExhausted:
            if not known.is_hasty:  # told once, until it calms down
                every = 1 / _CHANGES_PER_SECOND
                _log.warning("foreign bundle changes too often", trust_domain=bundle.trust_domain.name, every=every)
            known.is_hasty = True
            return False
        return True

    def _trust_of(self, federation: Federation) -> TrustBundle | None:
        """The newest bundle of the trust domain that the endpoint is of, as it is in force here (FED-27, FED-28)."""
        if federation.endpoint_id is None:
            return None
        if federation.endpoint_id.trust_domain == (own := self._own_bundle()).trust_domain:
            return own
        known = self._bundles.get(federation.endpoint_id.trust_domain)
        return known.bundle if known is not None else None

    def _note_failed(self, known: Following, error: CitadelError, *, is_asked_for: bool) -> None:
        self.failures[error.reason] += 1
        is_news = known.note_failed(error)
        name = known.federation.trust_domain.name
        if error.reason in _SUSPICIOUS and not is_asked_for:  # that is told with who asked
            self._tally.count_refused("federation.refresh", error)
        elif is_news:
            _log.warning("foreign bundle not fetched", trust_domain=name, reason=error.reason, error=error.message)


def _parsed(own: TrustDomain, trust_domain: TrustDomain, document: bytes) -> tuple[TrustBundle, Skipped | None]:
    skipped: list[Skipped] = []
    try:
        content = load_object(document, max_bytes=MAX_BUNDLE_BYTES, reason=Reason.BUNDLE_MALFORMED)
        check_document(trust_domain, content)
        bundle = TrustBundle.from_document(trust_domain, content, tell=lambda _, each: skipped.append(each))
        check_owner(own, bundle)
    except CitadelError as error:
        raise bad_answer(f"the endpoint of {trust_domain} answers no bundle of it: {error.message}") from error
    return bundle, next(iter(skipped), None)

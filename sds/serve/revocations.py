"""Which revocation lists a verifier may be given.

A verifier that has lists refuses every certificate of an issuer that it has none of. So where the lists leave somebody
out, none at all are given: a revoked certificate is accepted then, and everybody else is, too.
"""

from __future__ import annotations

from datetime import datetime

import structlog

from citadel.revocation import NO_REVOCATIONS, RevocationSet
from citadel.spiffe import TrustDomain
from sds.holdings import Holdings

_log = structlog.get_logger(__name__)


def for_leaves(holdings: Holdings, now: datetime) -> RevocationSet:
    """For a verifier that checks leaves alone: nothing unless each SVID of this node has a list of its issuer.

    Peers have SVIDs of the same issuers, as far as this node can know.
    """
    revocations = holdings.revocations
    covered = {each.issuer_key_id for each in revocations.of_leaf_issuers()}
    if not covered:
        return NO_REVOCATIONS
    needed = {held.issuer_key_id for held in holdings.svids.values() if held.svid.not_after > now}
    return revocations if needed <= covered else NO_REVOCATIONS


def for_chains(holdings: Holdings, own: TrustDomain, now: datetime) -> RevocationSet:
    """For a verifier that checks whole chains: nothing unless each root of the trust domain has a list as well."""
    revocations, bundle = for_leaves(holdings, now), holdings.bundles.get(own)
    return revocations if bundle is not None and revocations.covers_roots_of(bundle) else NO_REVOCATIONS


class UsableLists:
    """Judges once for each of the holdings, and says, once for each set, where its lists cannot be used."""

    def __init__(self, own: TrustDomain) -> None:
        self._own = own
        self._holdings: Holdings | None = None
        self._of_leaves = self._of_chains = NO_REVOCATIONS
        self._told = ""

    def lists(self, holdings: Holdings, now: datetime, *, of_leaves_alone: bool) -> RevocationSet:
        """What a verifier may be given now that checks leaves alone, or one that checks whole chains."""
        if holdings is not self._holdings:
            self._holdings = holdings
            self._of_leaves, self._of_chains = for_leaves(holdings, now), for_chains(holdings, self._own, now)
            self._tell(holdings.revocations)
        return self._of_leaves if of_leaves_alone else self._of_chains

    def _tell(self, revocations: RevocationSet) -> None:
        if revocations.version in (self._of_chains.version, self._told):
            return
        self._told = revocations.version
        _log.error(
            "revocation lists are held back: one is missing, and with the others alone good peers would be refused",
            version=revocations.version,
            lacks="that of a root" if self._of_leaves.lists else "that of an issuer",
        )

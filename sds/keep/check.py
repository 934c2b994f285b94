"""What an answered certificate must be before anybody is handed it (invariant 9)."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from datetime import datetime

from cryptography.hazmat.primitives.asymmetric.types import PublicKeyTypes

from citadel.bundle import TrustBundle
from citadel.errors import CitadelError, Reason, Unauthenticated
from citadel.spiffe import SpiffeId
from citadel.svid import X509Svid, verify_x509_svid
from sds.holdings import HeldSvid


def check_issued(
    chain_der: Sequence[bytes],
    *,
    spiffe_id: SpiffeId,
    public_key: PublicKeyTypes,
    bundle: TrustBundle,
    now: datetime,
) -> X509Svid:
    """The SVID in `chain_der` (DER, leaf first), if it is the one that was asked for.

    Envoy acknowledges an expired leaf and serves it, so the dates are checked here, with the chain, the ID and the key.
    Raises `InvalidArgument` (`svid_malformed`) or `Unauthenticated` (`svid_untrusted`). Slow: call it off the loop.
    """
    svid = verify_x509_svid(chain_der, {bundle.trust_domain: bundle}, now)
    if svid.spiffe_id != spiffe_id:
        raise _untrusted(f"the server answered an SVID for {svid.spiffe_id} where {spiffe_id} was asked for")
    if svid.leaf.public_key() != public_key:
        raise _untrusted(f"the server answered an SVID for {spiffe_id} with a key that is not ours")
    return svid


def believed_by_nobody(svids: Iterable[HeldSvid], bundle: TrustBundle, now: datetime) -> set[str]:
    """The entries whose SVID `bundle` does not vouch for, as where its root is gone. Slow: call it off the loop."""
    by_issuer: dict[bytes, list[HeldSvid]] = defaultdict(list)
    for held in svids:
        by_issuer[held.issuer_key_id].append(held)
    return {
        held.entry_id
        for ones in by_issuer.values()
        if not _vouches_for(bundle, max(ones, key=lambda held: held.svid.not_after), now)
        for held in ones
    }


def _vouches_for(bundle: TrustBundle, held: HeldSvid, now: datetime) -> bool:
    try:
        verify_x509_svid(held.svid.chain_der, {bundle.trust_domain: bundle}, now)
    except CitadelError:
        return False
    return True


def _untrusted(message: str) -> Unauthenticated:
    return Unauthenticated(Reason.SVID_UNTRUSTED, message)

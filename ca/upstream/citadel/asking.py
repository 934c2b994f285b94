"""What the answer of a parent must be that was asked for an issuing authority (pure, but slow: off the loop)."""

from __future__ import annotations

from collections.abc import Collection
from datetime import datetime

from cryptography import x509

from ca.authority.ports import SignedDownstream
from ca.keys.kinds import AuthorityPublicKey
from ca.upstream.asking import BadAnswerError, check_issuer, check_path, check_validity
from citadel._wire import clusters_pb2 as pb
from citadel.certification_path import UNREADABLE
from citadel.errors import FailedPrecondition, Reason, Unavailable
from citadel.spiffe import TrustDomain
from citadel.svid import MAX_CHAIN_LENGTH


def checked_answer(
    answer: pb.SignIssuerResponse,
    *,
    public_key: AuthorityPublicKey,
    trust_domain: TrustDomain,
    roots: Collection[x509.Certificate],
    not_after: datetime,
    now: datetime,
) -> SignedDownstream:
    """What the parent signed, if it is what was asked for: for this key, until `not_after` at most, under a root of it.

    It may begin a little later than `now`, where clocks differ: see `begin_of`.

    Raises `FailedPrecondition` (`upstream_invalid`), or `Unavailable` (`upstream_unavailable`) for a root that is not
    known yet: it is on its way.
    """
    try:
        signed = _read(answer)
        check_issuer(signed.chain[0], public_key=public_key, trust_domain=trust_domain)
        check_validity((*signed.chain, signed.root), not_after=not_after, now=now)
        if signed.root not in roots:
            raise Unavailable(
                Reason.UPSTREAM_UNAVAILABLE,
                "the parent signed by a root that it has not made known here, or takes back",
            )
        check_path(signed, now)
    except BadAnswerError as error:
        fix = error.fix or "look at the parent"
        raise FailedPrecondition(Reason.UPSTREAM_INVALID, f"the parent answered with {error.what}", fix=fix) from error
    return signed


def _read(answer: pb.SignIssuerResponse) -> SignedDownstream:
    if not 0 < len(answer.chain) <= MAX_CHAIN_LENGTH:
        raise BadAnswerError(f"a chain of {len(answer.chain)} certificates")
    try:
        chain = tuple(map(x509.load_der_x509_certificate, answer.chain))
        return SignedDownstream(chain=chain, root=x509.load_der_x509_certificate(answer.root))
    except UNREADABLE as error:
        raise BadAnswerError(f"a certificate that cannot be read: {error}") from error

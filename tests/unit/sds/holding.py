"""Holdings made by hand for tests of the serving side."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime, timedelta

from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from citadel.bundle import TrustBundle
from citadel.entry import Entry
from citadel.selector import Selector
from citadel.spiffe import TrustDomain
from citadel.svid import X509Svid
from sds.holdings import HeldSvid, Holdings
from tests import certificates
from tests.certificates import A_TEST, NOW

UID_1 = Selector("unix", "uid:1")
ROOT = certificates.root()


def entry(name: str, *selectors: Selector, **changes: object) -> Entry:
    """An entry with the id `name` for `spiffe://a.test/<name>`, matched by `unix:uid:1` unless selectors are given."""
    fields: dict[str, object] = {
        "id": name,
        "spiffe_id": A_TEST.member(name),
        "parent_id": A_TEST.member("citadel", "agent", "n"),
        "selectors": frozenset(selectors or (UID_1,)),
    }
    return Entry(**(fields | changes))  # type: ignore[arg-type] # a table of changes


def held(
    of: Entry, *, until: datetime = NOW + timedelta(hours=1), issuer: certificates.Signed | None = None
) -> HeldSvid:
    """A fresh SVID for an entry, under the root or under an issuer."""
    signed = certificates.leaf(issuer or ROOT, str(of.spiffe_id), not_after=until, not_before=NOW - timedelta(days=1))
    key = signed.key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())
    chain = [signed.der] if issuer is None else [signed.der, issuer.der]
    return HeldSvid(entry_id=of.id, svid=X509Svid.from_der(chain), private_key=key)


def own_bundle(sequence: int = 1, *authorities: certificates.Signed) -> TrustBundle:
    return certificates.bundle(*(authorities or (ROOT,)), sequence=sequence)


def empty_bundle(trust_domain: TrustDomain = A_TEST) -> TrustBundle:
    return TrustBundle(trust_domain=trust_domain, sequence=1)


def holdings(entries: Iterable[Entry], svids: Iterable[HeldSvid] = (), *bundles: TrustBundle) -> Holdings:
    """Holdings of these parts; without a bundle, `a.test`'s own."""
    return Holdings(
        entries={each.id: each for each in entries},
        svids={each.entry_id: each for each in svids},
        bundles={each.trust_domain: each for each in bundles or (own_bundle(),)},
    )

"""What a workload is told over the Workload API, parsed and checked at the border."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_der_private_key,
)

from citadel._wire import workload_pb2 as pb
from citadel.bundle import TrustBundle
from citadel.certificate_chain import read_chain
from citadel.errors import CitadelError, InvalidArgument, NotFound, Reason
from citadel.spiffe import SpiffeId, TrustDomain
from citadel.svid import X509Svid


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkloadSvid:
    """An X509-SVID with its private key, unencrypted PKCS#8 DER."""

    svid: X509Svid
    private_key: bytes = field(repr=False)
    hint: str = ""

    @property
    def private_key_pem(self) -> bytes:
        """The key as unencrypted PKCS#8 PEM."""
        key = load_der_private_key(self.private_key, None)
        return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


@dataclass(frozen=True, slots=True, kw_only=True)
class X509Context:
    """All identities of this workload, the default one first, and the X.509 bundles that it may trust.

    The bundles hold no JWT authorities: they are for X509-SVIDs alone (WAPI-28). A domain without one is not trusted.
    """

    svids: tuple[WorkloadSvid, ...]
    bundles: Mapping[TrustDomain, TrustBundle]

    def choose(self, spiffe_id: SpiffeId | None = None) -> WorkloadSvid:
        """The identity that is named, otherwise the default. Raises `NotFound` (`no_identity`)."""
        for each in self.svids:
            if spiffe_id in (None, each.svid.spiffe_id):
                return each
        have = ", ".join(str(each.svid.spiffe_id) for each in self.svids)
        raise NotFound(Reason.NO_IDENTITY, f"this workload is not {spiffe_id}", fix=f"it is {have}")


def parse_x509_context(message: pb.X509SVIDResponse) -> X509Context:
    """The values of a response.

    Raises `InvalidArgument` (`svid_malformed`, `bundle_malformed`, `id_malformed`, `trust_domain_malformed`) where a
    mandatory field is not set or one is none of what it should be: such a message is reported and discarded (WAPI-14).
    """
    if not message.svids:
        raise _malformed("it has no SVID")
    bundles: dict[TrustDomain, TrustBundle] = {
        (domain := TrustDomain.parse(name)): _parse_bundle(domain, der)
        for name, der in message.federated_bundles.items()
    }
    for each in message.svids:
        domain = SpiffeId.parse(each.spiffe_id).trust_domain
        bundles[domain] = _parse_bundle(domain, each.bundle)
    return X509Context(svids=tuple(_parse_svid(each) for each in _first_of_each_hint(message.svids)), bundles=bundles)


def _first_of_each_hint(svids: Sequence[pb.X509SVID]) -> Iterable[pb.X509SVID]:
    """Of those with the same hint the first (WAPI-24)."""
    seen: set[str] = set()
    for each in svids:
        if each.hint and each.hint in seen:
            continue
        seen.add(each.hint)
        yield each


def _parse_svid(message: pb.X509SVID) -> WorkloadSvid:
    if not message.x509_svid or not message.x509_svid_key:
        raise _malformed(f"the SVID {message.spiffe_id} lacks its certificate or its key")
    svid = X509Svid.from_der(_split(message.x509_svid))
    if str(svid.spiffe_id) != message.spiffe_id:
        raise _malformed(f"the certificate of {message.spiffe_id} is one of {svid.spiffe_id}")
    try:
        key = load_der_private_key(message.x509_svid_key, None)
    except (ValueError, TypeError, UnsupportedAlgorithm):  # whose text may show the key
        raise _malformed(f"the key of {message.spiffe_id} is not unencrypted PKCS#8") from None
    if key.public_key() != svid.leaf.public_key():
        raise _malformed(f"the key of {message.spiffe_id} is not that of its certificate")
    return WorkloadSvid(svid=svid, private_key=message.x509_svid_key, hint=message.hint)


def _parse_bundle(trust_domain: TrustDomain, der: bytes) -> TrustBundle:
    if not der:
        raise _malformed(f"the bundle of {trust_domain} is empty")
    authorities = tuple(x509.load_der_x509_certificate(each) for each in _split(der))
    return TrustBundle(trust_domain=trust_domain, x509_authorities=authorities)


def _split(der: bytes) -> Sequence[bytes]:
    if der.startswith(b"-"):
        raise _malformed("a certificate is PEM where it must be DER")  # WAPI-18
    return [certificate.public_bytes(Encoding.DER) for certificate in read_chain(der)]


def _malformed(problem: str) -> CitadelError:
    return InvalidArgument(Reason.SVID_MALFORMED, f"the Workload API's answer cannot be used: {problem}")

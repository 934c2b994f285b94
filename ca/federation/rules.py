"""What may become a federation, and which bundle may take the place of which (pure).

Source: SPIFFE_Federation.md sections 4 and 5 (the lines FED-05 to FED-08, FED-24, FED-33 of the conformance checklist).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from datetime import timedelta
from ipaddress import ip_address
from typing import Final
from urllib.parse import SplitResult, urlsplit

import httpx

from ca.federation.model import Federation
from ca.federation.settings import Profile
from citadel.bundle import DEFAULT_REFRESH_INTERVAL, TrustBundle
from citadel.errors import CitadelError, FailedPrecondition, InvalidArgument, Reason
from citadel.printable import printable
from citadel.spiffe import TrustDomain
from citadel.web.addresses import check_address

# Servers of SPIRE have three X.509 authorities each where they share no root; each cluster has some JWT authorities.
MOST_X509_AUTHORITIES: Final = 200
MOST_JWT_AUTHORITIES: Final = 1000
MAX_DOCUMENT_BYTES: Final = 1024 * 1024  # as fetched, and as given by hand
_MOST_URL: Final = 2048  # characters
_LONGEST: Final = timedelta(days=1)
_LONGEST_AFTER_FAILURE: Final = timedelta(minutes=5)
_JITTER: Final = 0.1


def check_foreign(own: TrustDomain, offered: TrustDomain) -> None:
    """Raise `InvalidArgument` (`federation_own_domain`) where the own trust domain is offered as a foreign one."""
    if offered == own:
        raise InvalidArgument(
            Reason.FEDERATION_OWN_DOMAIN,
            f"{own} is the own trust domain: two clusters of one name and different roots would each speak for all "
            "identities of the other",
            fix="give them one root, or one of them another name",
        )


def check_owner(own: TrustDomain, offered: TrustBundle) -> None:
    """Raise `InvalidArgument` where `offered` holds a root that says of itself that it is another trust domain's.

    It is `federation_own_domain` for the own one, else `bundle_malformed`. A root that says nothing may be over several
    trust domains, the own one among them, on purpose.
    """
    names = offered.named_otherwise()
    if own.name in names:
        raise InvalidArgument(
            Reason.FEDERATION_OWN_DOMAIN,
            f"this is the bundle of {own}, your own, not that of {offered.trust_domain}",
            fix=f"take what `citadel-cli bundle show --own --format spiffe` prints at {offered.trust_domain}",
        )
    if names:
        others = printable(", ".join(sorted(names)), 300)
        raise InvalidArgument(
            Reason.BUNDLE_MALFORMED,
            f"this is a bundle of {others}, not of {offered.trust_domain}: a root in it says so",
            fix=f"take what `citadel-cli bundle show --own --format spiffe` prints at {offered.trust_domain}",
        )


def check_size(offered: TrustBundle) -> None:
    """Raise `InvalidArgument` (`bundle_malformed`) for more authorities than a foreign bundle may have.

    Every proxy that federates has them, makes them ready again at each change, and tries them at each handshake.
    """
    _check_counts(offered.trust_domain, len(offered.x509_authorities), len(offered.jwt_authorities))


def check_bytes(document: bytes) -> None:
    """Raise `InvalidArgument` (`bundle_malformed`) for a document that would not be fetched either."""
    if len(document) > MAX_DOCUMENT_BYTES:
        raise InvalidArgument(
            Reason.BUNDLE_MALFORMED, f"the bundle has {len(document)} bytes, and {MAX_DOCUMENT_BYTES} are the most"
        )


def check_document(trust_domain: TrustDomain, document: Mapping[str, object]) -> None:
    """The same before the elements are looked at, which costs more than counting them."""
    keys = document.get("keys")
    uses = Counter(each.get("use") for each in keys if isinstance(each, dict)) if isinstance(keys, list) else Counter()
    _check_counts(trust_domain, uses["x509-svid"], uses["jwt-svid"])


def only_takes_away(known: TrustBundle, offered: TrustBundle) -> bool:
    """Whether `offered` trusts less than `known` and nothing else."""
    x509, jwt = set(known.x509_authorities), known.jwt_authorities.items()
    is_part = x509.issuperset(offered.x509_authorities) and offered.jwt_authorities.items() <= jwt
    return is_part and len(offered.x509_authorities) + len(offered.jwt_authorities) < len(x509) + len(jwt)


def _check_counts(trust_domain: TrustDomain, x509: int, jwt: int) -> None:
    for kind, count, most in (("X.509", x509, MOST_X509_AUTHORITIES), ("JWT", jwt, MOST_JWT_AUTHORITIES)):
        if count > most:
            raise InvalidArgument(
                Reason.BUNDLE_MALFORMED,
                f"the bundle of {trust_domain} has {count} {kind} authorities, and {most} are the most",
                fix="ask its owner to take those from it that sign no longer",
            )


def check_order(known: TrustBundle | None, offered: TrustBundle) -> None:
    """Raise `FailedPrecondition` (`bundle_older`) where `offered` says of itself that it is the older one (FED-33).

    Where one of them has no sequence, the one that came last is the newer one.
    """
    if known is None or known.sequence is None or offered.sequence is None:
        return
    if offered.sequence < known.sequence:
        raise FailedPrecondition(
            Reason.BUNDLE_OLDER,
            f"the bundle of {offered.trust_domain} has the sequence {offered.sequence}, and the one in force "
            f"{known.sequence}",
            fix=f"ask its owner; if the older one is right: `citadel-cli federation refresh {offered.trust_domain} "
            f"--force --reason TEXT`, or for a bundle that was set by hand `citadel-cli bundle delete "
            f"{offered.trust_domain} --reason TEXT` before it is set",
        )


def check_federation(own: TrustDomain, wanted: Federation) -> None:
    """Raise `InvalidArgument` for what cannot be fetched.

    It is `federation_own_domain`, `federation_malformed` or `address_refused`.
    """
    check_foreign(own, wanted.trust_domain)
    if problem := url_problem(wanted.endpoint_url):
        raise _malformed(f"the endpoint's URL {problem}")
    if wanted.profile is Profile.HTTPS_SPIFFE and wanted.endpoint_id is None:
        raise _malformed(  # FED-24
            "https_spiffe needs the SPIFFE ID of the endpoint",
            fix=f"add `--endpoint-id spiffe://{wanted.trust_domain}/citadel/server`, which is that of a Citadel",
        )
    if wanted.endpoint_id is not None and not wanted.endpoint_id.path:
        raise _malformed(f"{wanted.endpoint_id} names a trust domain and nobody in it")
    if wanted.profile is Profile.HTTPS_WEB and wanted.endpoint_id is not None:
        raise _malformed("https_web takes no SPIFFE ID of the endpoint: its certificate is of the web's")  # FED-09
    _check_place(wanted)


def check_trust(wanted: Federation, known: TrustBundle | None) -> None:
    """Raise `InvalidArgument` (`federation_malformed`) where a self-serving endpoint could never be believed (FED-26).

    `known` is the bundle of the foreign trust domain, where there is one.
    """
    endpoint = wanted.endpoint_id
    if endpoint is not None and endpoint.trust_domain == wanted.trust_domain and known is None:
        raise _malformed(
            f"{endpoint} is of {wanted.trust_domain} itself, whose bundle is not known: its first contact needs one",
            fix="add `--bundle FILE`, with the bundle as its owner gave it to you",
        )


def seconds_to_next(bundle: TrustBundle | None, *, failed: bool, least: timedelta, draw: float) -> float:
    """How long to wait from one fetch to the next (FED-29 to FED-31): as its owner asks, within bounds.

    After a failure it is not tried again sooner, but within minutes where the interval is long. `draw`, from 0 to 1,
    makes it up to a tenth shorter, so that many do not ask at once.
    """
    wanted = bundle.refresh_interval if bundle is not None else DEFAULT_REFRESH_INTERVAL
    interval = max(least, min(wanted, _LONGEST_AFTER_FAILURE if failed else _LONGEST))
    return interval.total_seconds() * (1 - _JITTER * draw)


def url_problem(url: str) -> str:
    """What is wrong with `url` as that of a bundle endpoint (FED-07, FED-08); empty where it is one."""
    shown = printable(url, 200)
    if len(url) > _MOST_URL or not url.isascii() or not url.isprintable() or " " in url:
        return f"{shown} is no plain URL of at most {_MOST_URL} characters"
    try:
        parts = urlsplit(url)
        port = parts.port
        httpx.URL(url)  # by which it is asked
    except (ValueError, httpx.InvalidURL):
        return f"{shown} is no URL"
    return _problem(parts, port, shown)


def _problem(parts: SplitResult, port: int | None, shown: str) -> str:
    if parts.username is not None or parts.password is not None:
        return "has a user or a password"  # and is not repeated
    if parts.scheme != "https":
        return f"{shown} is not https"
    if not parts.hostname or port == 0:
        return f"{shown} names no host that can be asked"
    return ""


def _check_place(wanted: Federation) -> None:
    """An address that is never asked is refused at once; what a name leads to is seen at each fetch."""
    host = urlsplit(wanted.endpoint_url).hostname or ""
    try:
        ip_address(host)
    except ValueError:
        return
    try:
        check_address(host, host, allow_private=True)
    except CitadelError as error:
        raise InvalidArgument(
            error.reason, error.message, fix="name an address at which a bundle endpoint can be"
        ) from error


def _malformed(problem: str, *, fix: str = "") -> InvalidArgument:
    return InvalidArgument(Reason.FEDERATION_MALFORMED, problem, fix=fix)

"""What is asked of a PKI engine for an authority, and what its answer must be (pure, but slow: off the loop)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from ca.authority.ports import SignedDownstream
from ca.keys.kinds import AuthorityPublicKey
from ca.upstream.asking import CLOCKS_DIFFER, BadAnswerError, check_issuer, check_path, check_validity
from ca.upstream.vault.engine import Issued, read_pem
from ca.upstream.vault.offer import Line
from citadel.certification_path import UNREADABLE
from citadel.config.types import format_duration
from citadel.errors import FailedPrecondition, Reason
from citadel.name_constraints import forbidding, permitted_hosts
from citadel.serial import new_serial
from citadel.spiffe import TrustDomain

# These come with every answer: what is asked for is meant so.
_ALWAYS_SAID: Final = ("authority information access", "Max path length of the signed certificate is zero")
# Said of an end that is checked here, and shortened beforehand.
_TOLD_OTHERWISE: Final = ("is after the CA's expiration time", "longer than permitted maxTTL")
_SECOND: Final = timedelta(seconds=1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Term:
    """How long an authority is asked for: until `ends`, which the issuer's own end may bind."""

    begins: datetime
    now: datetime
    ends: datetime

    def parameters(self) -> Mapping[str, Any]:
        """As the engine is asked: by spans, which it counts from its own now. A ttl of 0 would be its default."""
        seconds = (self.ends - self.now) // _SECOND
        if seconds < 1:
            raise FailedPrecondition(
                Reason.UPSTREAM_INVALID,
                f"the issuer in Vault ends at {self.ends.isoformat(timespec='seconds')}: nothing more comes from it",
                fix="rotate the root in Vault",
            )
        return {
            "ttl": f"{seconds}s",
            "not_before_duration": f"{max((self.now - self.begins) // _SECOND, 0)}s",
            "max_path_length": 0,
        }


def term_of(line: Line, *, not_before: datetime, not_after: datetime, now: datetime) -> Term:
    """The term to ask for: nothing outlives what is above it, by whichever of two clocks, and all has begun by both."""
    ends = min(not_after, longest_end(line, now))
    return Term(begins=min(not_before, now - begins_back(ends - now)), now=now, ends=ends)


def begins_back(lifetime: timedelta) -> timedelta:
    """How long before it is signed an authority begins, for a clock of Vault's that is ahead. Early harms nobody."""
    return min(CLOCKS_DIFFER, max(lifetime, timedelta(0)) / 10)


def longest_end(line: Line, now: datetime) -> datetime:
    """The latest end that is asked for. Vault's clock may be ahead: it would sign for longer, and say nothing."""
    return line.ends - min(CLOCKS_DIFFER, max(line.ends - now, timedelta(0)) / 10)


def by_request(csr: bytes) -> Mapping[str, Any]:
    """To sign a request of our own as it is: also what no parameter asks for, such as constraints."""
    return {"csr": _pem(csr), "use_csr_values": True}


def by_parameters(csr: bytes, trust_domain: TrustDomain) -> Mapping[str, Any]:
    """To sign the key of a request, and nothing else of it."""
    return {
        "csr": _pem(csr),
        "common_name": "Citadel Issuer",
        "serial_number": f"{new_serial():032x}",
        "uri_sans": str(trust_domain.id),
        "exclude_cn_from_sans": True,
    }


def checked_answer(
    issued: Issued,
    line: Line,
    term: Term,
    *,
    public_key: AuthorityPublicKey,
    trust_domain: TrustDomain,
    is_constrained: bool,
) -> SignedDownstream:
    """What was signed, if it is what was asked for. Raises `FailedPrecondition` (`upstream_invalid`)."""
    try:
        certificate = _read(issued)
        signed = SignedDownstream(chain=(certificate, *line.chain), root=line.root)
        check_issuer(certificate, public_key=public_key, trust_domain=trust_domain)
        # Asked for so early that it has begun, unless the clocks differ by more: nobody waits for that.
        check_validity((*signed.chain, signed.root), not_after=term.ends, now=term.now, ahead=timedelta(0))
        _check_above(certificate, line, trust_domain, is_constrained=is_constrained)
        check_path(signed, term.now)
    except BadAnswerError as error:
        fix = error.fix or "look at the issuer, and at what the mount is set to"
        raise FailedPrecondition(Reason.UPSTREAM_INVALID, f"Vault answered with {error.what}", fix=fix) from error
    return signed


def warnings_of(issued: Issued) -> tuple[str, ...]:
    """What was warned of, and is not told otherwise."""
    expected = _ALWAYS_SAID + _TOLD_OTHERWISE
    return tuple(f"Vault warns: {each}" for each in issued.warnings if not any(words in each for words in expected))


def shortened(certificate: x509.Certificate, line: Line, wanted: timedelta) -> str:
    """Why an authority below this has less than the `wanted` lifetime, or "". By no other clock than Vault's."""
    begins = certificate.not_valid_before_utc
    signed = begins + begins_back(wanted)  # at the latest
    asked = min(wanted, longest_end(line, signed) - signed)
    got = certificate.not_valid_after_utc - begins - begins_back(asked)
    if asked - got > max(2 * _SECOND, min(CLOCKS_DIFFER, asked / 10)):
        why = "see max_lease_ttl of its mount"
    elif asked < wanted:
        why = f"what signs in Vault ends at {line.ends.isoformat(timespec='seconds')}"
    else:
        return ""
    return f"the authority is for {_span(got)}, not {_span(wanted)} as authorities.issuer_lifetime says: {why}"


def _check_above(certificate: x509.Certificate, line: Line, trust_domain: TrustDomain, *, is_constrained: bool) -> None:
    if certificate.not_valid_after_utc > line.ends:
        raise BadAnswerError(
            f"an authority until {certificate.not_valid_after_utc.isoformat()}, and what signed it ends before",
            fix="set the clocks of both",
        )
    try:
        if is_constrained and permitted_hosts(certificate) != [trust_domain.name]:
            raise BadAnswerError(
                f"an authority that is not constrained to {trust_domain}",
                fix="set upstream.vault.constrained to false, or use a Vault that takes constraints from requests",
            )
        if forbidding([certificate], trust_domain) is not None:
            raise BadAnswerError(f"an authority that may not sign for {trust_domain}")
    except UNREADABLE as error:
        raise BadAnswerError(f"a certificate that cannot be read: {error}") from error


def _read(issued: Issued) -> x509.Certificate:
    certificate = read_pem(issued.certificate)
    if certificate is None:
        raise BadAnswerError("a certificate that cannot be read")
    return certificate


def _span(span: timedelta) -> str:
    return format_duration(max(-(-span // _SECOND), 0) * _SECOND)  # certificates count whole seconds


def _pem(csr: bytes) -> str:
    return x509.load_der_x509_csr(csr).public_bytes(Encoding.PEM).decode()

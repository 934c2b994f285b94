"""Chains of every kind with the verdict that they deserve: one table for our verifier and for `openssl verify`."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from citadel.spiffe import TrustDomain
from tests.certificates import (
    A_TEST,
    NOW,
    UNKNOWN_CRITICAL,
    WORKLOAD,
    Signed,
    excluded,
    explicit_policy_required,
    intermediate,
    key_usage,
    leaf,
    permitted,
    resigned_with_sha1,
    root,
    rsa_key,
)

SECOND = timedelta(seconds=1)


@dataclass(frozen=True)
class Case:
    """A chain, leaf first, its trust anchors, and what is wrong with it: a part of the refusal, or "" for nothing."""

    name: str
    chain: tuple[Signed, ...]
    anchors: tuple[Signed, ...]
    refusal: str = ""
    now: datetime = NOW
    trust_domain: TrustDomain = A_TEST


def cases() -> Iterator[Case]:
    """Every kind of chain."""
    for family in (_good, _in_time, _unanchored, _bad_authorities, _constrained_names, _critical, _weak):
        yield from family()


def _good() -> Iterator[Case]:
    top = root()
    mid = intermediate(top, path_length=1)
    low = intermediate(mid, "issuing 2", path_length=0)
    svid = leaf(low)
    yield Case("leaf under a root", (leaf(top),), (top,))
    yield Case("leaf under an issuing authority", (leaf(mid), mid), (top,))
    yield Case("two intermediates", (svid, low, mid), (top,))
    yield Case("intermediates in the wrong order", (svid, mid, low), (top,))
    yield Case("the root in the chain as well", (svid, low, mid, top), (top,))
    yield Case("a stranger in the chain as well", (svid, low, mid, root("stranger")), (top,))
    yield Case("an intermediate as anchor", (svid, low), (mid,))
    yield Case("the issuer as anchor", (svid,), (low,))
    yield Case("several anchors", (svid, low, mid), (root("other"), top))
    yield Case("two anchors of one name", (leaf(top),), (root(), top))
    yield Case(
        "authorities without a SPIFFE ID", (leaf(bare := intermediate(base := root(uri=None), uri=None)), bare), (base,)
    )
    yield Case("DNS names beside the URI", (leaf(top, WORKLOAD, dns=("www.a.test", "*.b.test")),), (top,))
    yield Case("a leaf without extended key usage", (leaf(top, extra=()),), (top,))
    yield Case("RSA-2048 all the way", (leaf(big := root(key=rsa_key()), key=rsa_key()),), (big,))
    yield Case(
        "P-384", (leaf(wide := root(key=ec.generate_private_key(ec.SECP384R1())), digest=hashes.SHA384()),), (wide,)
    )
    yield Case("Ed25519", (leaf(small := root(key=ed25519.Ed25519PrivateKey.generate())),), (small,))


def _in_time() -> Iterator[Case]:
    top = root()
    mid = intermediate(top)
    chain, end = (leaf(mid), mid), NOW + timedelta(hours=1)
    yield Case("a second before the leaf's end", chain, (top,), now=end - SECOND)
    yield Case("a second after the leaf's end", chain, (top,), "expired", now=end + SECOND)
    start = NOW - timedelta(minutes=1)
    yield Case("a second after the leaf's start", chain, (top,), now=start + SECOND)
    yield Case("a second before the leaf's start", chain, (top,), "not yet valid", now=start - SECOND)
    old = intermediate(top, not_after=NOW - SECOND)
    yield Case("an expired intermediate", (leaf(old), old), (top,), "expired")
    young = intermediate(top, not_before=NOW + SECOND)
    yield Case("an intermediate that is not yet valid", (leaf(young), young), (top,), "not yet valid")
    gone = root(not_after=NOW - SECOND)
    yield Case("an expired root", (leaf(gone),), (gone,), "expired")


def _unanchored() -> Iterator[Case]:
    top = root()
    mid = intermediate(top)
    svid = leaf(mid)
    yield Case("a missing intermediate", (svid,), (top,), "unable to get local issuer")
    yield Case("an unknown root", (svid, mid, top), (root("other"),), "self-signed certificate in certificate chain")
    yield Case("another root of the same name", (leaf(top),), (root(),), "certificate signature failure|unable to get")
    itself = leaf(Signed(top.certificate, lone := ec.generate_private_key(ec.SECP256R1())), key=lone)
    yield Case("a signature by another key than the issuer's", (itself,), (top,), "signature failure|unable to get")
    own = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "self")])
    self_signed = leaf(Signed(top.certificate, own), key=own, subject=name, issuer_name=name)
    yield Case("a leaf that signed itself", (self_signed,), (top,), "self-signed certificate")
    broken = bytearray(svid.der)
    broken[-1] ^= 1
    yield Case(
        "a signature with one bit changed",
        (replace(svid, certificate=x509.load_der_x509_certificate(bytes(broken))), mid),
        (top,),
        "signature failure",
    )


def _bad_authorities() -> Iterator[Case]:
    top = root()
    ends = intermediate(top, path_length=0)
    below = intermediate(ends, "below", path_length=None)
    yield Case("an intermediate's path length exceeded", (leaf(below), below, ends), (top,), "path length")
    strict = root(constraints=x509.BasicConstraints(ca=True, path_length=0))
    under = intermediate(strict)
    yield Case("a root's path length exceeded", (leaf(under), under), (strict,), "path length")
    plain = intermediate(top, constraints=x509.BasicConstraints(ca=False, path_length=None))
    yield Case("an issuer with cA FALSE", (leaf(plain), plain), (top,), "invalid CA certificate")
    silent = intermediate(top, constraints=None)
    yield Case("an issuer without basic constraints", (leaf(silent), silent), (top,), "invalid CA certificate")
    helpless = intermediate(top, usage=key_usage("crl_sign"))
    yield Case("an issuer without keyCertSign", (leaf(helpless), helpless), (top,), "invalid CA certificate")
    sibling = leaf(top, "spiffe://a.test/other")
    yield Case("a workload that issues", (leaf(sibling), sibling), (top,), "invalid CA|unable to get")
    bare = intermediate(top, usage=None)
    yield Case("an issuer without key usage, which then binds nothing", (leaf(bare), bare), (top,))


def _constrained_names() -> Iterator[Case]:
    top = root()
    yes, no = intermediate(top, extra=[permitted("a.test")]), intermediate(top, uri=None, extra=[permitted("b.test")])
    yield Case("permitted by its issuer", (leaf(yes), yes), (top,))
    yield Case("not permitted by its issuer", (leaf(no), no), (top,), "permitted subtree violation")
    both = intermediate(top, extra=[permitted("b.test", "a.test")])
    yield Case("permitted by one of two subtrees", (leaf(both), both), (top,))
    never = intermediate(top, uri=None, extra=[excluded("a.test")])
    yield Case("excluded by its issuer", (leaf(never), never), (top,), "excluded subtree violation")
    other = intermediate(top, extra=[excluded("b.test")])
    yield Case("another name excluded", (leaf(other), other), (top,))
    for kind, constraint, refusal in (
        ("permits only another", permitted("b.test"), "permitted subtree violation"),
        ("excludes it", excluded("a.test"), "excluded subtree violation"),
        ("permits it", permitted("a.test"), ""),
    ):
        bound = root(uri=None, extra=[constraint])
        mid = intermediate(bound, uri=None)
        yield Case(f"a root two levels up {kind}", (leaf(mid), mid), (bound,), refusal)
        high = intermediate(top, uri=None, path_length=1, extra=[constraint])
        low = intermediate(high, "low", uri=None)
        yield Case(f"an intermediate two levels up {kind}", (leaf(low), low, high), (top,), refusal)
        yield Case(f"an anchor that is an intermediate {kind}", (leaf(low), low), (high,), refusal)
    domain = intermediate(top, extra=[permitted(".a.test")], uri=None)
    yield Case("a constraint of subdomains does not permit the domain", (leaf(domain), domain), (top,), "permitted")
    yield Case(
        "a constraint of subdomains permits one",
        (leaf(domain, "spiffe://x.a.test/w"), domain),
        (top,),
        trust_domain=TrustDomain("x.a.test"),
    )


def _critical() -> Iterator[Case]:
    top = root()
    usual = (x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), True)
    yield Case("an unknown critical extension on the leaf", (leaf(top, extra=[UNKNOWN_CRITICAL]),), (top,), "critical")
    mid = intermediate(top, extra=[UNKNOWN_CRITICAL])
    yield Case("an unknown critical extension on an issuer", (leaf(mid), mid), (top,), "critical")
    relaxed = (UNKNOWN_CRITICAL[0], False)
    yield Case("an unknown extension that is not critical", (leaf(top, extra=[relaxed]),), (top,))
    yield Case("a critical extended key usage", (leaf(top, extra=[usual]),), (top,))
    formal = intermediate(top, extra=[explicit_policy_required()])
    yield Case("a policy required and none there", (leaf(formal), formal), (top,), "no explicit policy")


def _weak() -> Iterator[Case]:
    signer = root(key=rsa_key())
    yield Case("a leaf signed with SHA-1", (resigned_with_sha1(leaf(signer), signer),), (signer,), "signed with sha1")
    mid = resigned_with_sha1(intermediate(signer), signer)
    yield Case("an issuer signed with SHA-1", (leaf(mid), mid), (signer,), "signed with sha1")
    old = resigned_with_sha1(signer, signer)
    yield Case("an anchor signed with SHA-1, on which nobody relies", (leaf(old),), (old,))
    top = root()
    yield Case("a leaf with RSA-1024", (leaf(top, key=rsa_key(1024)),), (top,), "RSA key of only 1024 bits")
    small = intermediate(top, key=rsa_key(1024))
    yield Case("an issuer with RSA-1024", (leaf(small), small), (top,), "RSA key of only 1024 bits")
    tiny = root(key=rsa_key(1024))
    yield Case("an anchor with RSA-1024", (leaf(tiny),), (tiny,), "RSA key of only 1024 bits")
    yield Case(
        "a leaf with P-192",
        (leaf(top, key=ec.generate_private_key(ec.SECP192R1())),),
        (top,),
        "EC key of only 192 bits",
    )

"""A machine joins with a certificate that it has already, by proving its key; every other certificate is refused."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from ca.agents.anchors import AnchorFile
from ca.agents.model import JoinedBy
from ca.agents.x509pop import X509PopJoining
from ca.issuance.issuer import key_digest
from ca.issuance.press import IssuedSvid
from ca.store.database import Database
from citadel.errors import CitadelError, FailedPrecondition, InvalidArgument, PermissionDenied, Reason, Unauthenticated
from citadel.reserved import is_agent_id, x509pop_agent_id
from citadel.serial import serial_hex
from citadel.spiffe import SpiffeId
from tests import certificates
from tests.certificates import Signed
from tests.clock import FakeClock
from tests.csrs import csr, new_key
from tests.unit.ca.joiner import Joiner, pem
from tests.unit.ca.values import A_TEST, ADMINISTRATOR

MACHINES = certificates.root("machines", uri=None)
SITE = certificates.intermediate(MACHINES, "site 7", uri=None)
OTHERS = certificates.root("others", uri=None)


def uses(*oids: x509.ObjectIdentifier) -> tuple[tuple[x509.ExtensionType, bool], ...]:
    return ((x509.ExtendedKeyUsage(oids), False),)


def named(*names: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name) for name in names])


def machine(issuer: Signed = SITE, **changes: Any) -> Signed:
    """A certificate as machines have them: a common name, for clients, no SPIFFE ID."""
    profile = {"subject": named("node-7"), "names": None, "extra": uses(ExtendedKeyUsageOID.CLIENT_AUTH)}
    return certificates.leaf(issuer, **(profile | changes))


def fingerprint(signed: Signed) -> str:
    return signed.certificate.fingerprint(hashes.SHA256()).hex()


@pytest.fixture
def server(database: Database, clock: FakeClock) -> Joiner:
    return Joiner(database, clock, anchors=[MACHINES.certificate])


async def join(
    server: Joiner, own: Signed, *above: Signed, key: ec.EllipticCurvePrivateKey | None = None
) -> IssuedSvid:
    """Join as a machine does that keeps to the rules."""
    claim = await server.x509pop.claim([own.der, *(each.der for each in above)], csr(key))
    return await claim.proven_by(claim.challenge.signed_by(own.key), origin="ipv4:10.0.0.7")  # type: ignore[arg-type]


async def test_whoever_proves_a_trusted_certificate_is_an_agent_named_after_it(
    server: Joiner, clock: FakeClock
) -> None:
    own, key = machine(), new_key()
    svid = await join(server, own, SITE, key=key)
    assert svid.spiffe_id == x509pop_agent_id(A_TEST, fingerprint(own))
    assert is_agent_id(svid.spiffe_id)
    (recorded,) = (await server.recorded()).values()
    assert (recorded.key, recorded.joined_by, recorded.joined_at) == (
        key_digest(key.public_key()),
        JoinedBy.X509POP,
        clock.now(),
    )
    assert {str(selector) for selector in recorded.selectors} == {
        "node:x509pop:subject:cn:node-7",
        f"node:x509pop:fingerprint:{fingerprint(own)}",
        f"node:x509pop:serialnumber:{serial_hex(own.certificate.serial_number)}",
        f"node:x509pop:ca:fingerprint:{fingerprint(SITE)}",
        f"node:x509pop:ca:fingerprint:{fingerprint(MACHINES)}",
    }
    who, _ = await server.roster.authenticate(pem(svid))
    assert who == recorded


async def test_a_join_is_audited_as_the_agent_that_came_of_it(server: Joiner) -> None:
    svid = await join(server, machine(), SITE)
    assert await server.acts() == [(str(svid.spiffe_id), "agent.join", str(svid.spiffe_id), "")]


async def test_the_same_certificate_joins_again_and_the_earlier_key_is_out(server: Joiner) -> None:
    own = machine()
    first, second = await join(server, own, SITE), await join(server, own, SITE)
    assert first.spiffe_id == second.spiffe_id
    await server.roster.authenticate(pem(second))
    with pytest.raises(PermissionDenied) as refused:
        await server.roster.authenticate(pem(first))
    assert refused.value.reason is Reason.AGENT_KEY_MISMATCH


async def test_a_banned_machine_stays_banned_however_often_it_joins(server: Joiner) -> None:
    own = machine()
    svid = await join(server, own, SITE)
    await server.administration.ban(str(svid.spiffe_id), why="stolen", by=ADMINISTRATOR)
    before = await server.recorded()
    with pytest.raises(PermissionDenied) as refused:
        await join(server, own, SITE)
    assert refused.value.reason is Reason.AGENT_BANNED
    assert await server.recorded() == before


TRUSTED: list[tuple[str, Callable[[], Sequence[Signed]]]] = [
    ("P-384", lambda: [machine(key=ec.generate_private_key(ec.SECP384R1())), SITE]),
    ("RSA", lambda: [machine(key=certificates.rsa_key()), SITE]),
    ("directly under the root", lambda: [machine(MACHINES)]),
    ("no extended key usage", lambda: [machine(extra=()), SITE]),
    ("any extended key usage", lambda: [machine(extra=uses(ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE)), SITE]),
    ("no key usage", lambda: [machine(usage=None), SITE]),
    ("no basic constraints", lambda: [machine(constraints=None), SITE]),
    ("with the root, which counts for nothing", lambda: [machine(), SITE, MACHINES]),
    ("a name that no selector can hold", lambda: [machine(subject=named("a\nb")), SITE]),
]


@pytest.mark.parametrize("chain", [chain for _, chain in TRUSTED], ids=[name for name, _ in TRUSTED])
async def test_a_trusted_certificate_joins(server: Joiner, chain: Callable[[], Sequence[Signed]]) -> None:
    own, *above = chain()
    assert is_agent_id((await join(server, own, *above)).spiffe_id)


def usage(*names: str) -> dict[str, Any]:
    return {"usage": certificates.key_usage(*names)}


def deep(levels: int) -> list[Signed]:
    """A chain of authorities, the last of which signed the machine's certificate; leaf first."""
    chain = [MACHINES]
    for level in range(levels):
        chain.append(certificates.intermediate(chain[-1], f"level {level}", uri=None, path_length=None))
    return [machine(chain[-1]), *reversed(chain[1:])]


EARLIER, LATER = certificates.NOW - timedelta(minutes=2), certificates.NOW + timedelta(minutes=2)
LONG_AGO = certificates.NOW - timedelta(days=1)
REFUSED: list[tuple[str, Callable[[], Sequence[bytes]]]] = [
    ("nothing", list),
    ("garbage", lambda: [b"garbage"]),
    ("a megabyte of garbage", lambda: [os.urandom(1 << 20)]),
    ("garbage above", lambda: [machine().der, b"garbage"]),
    ("expired", lambda: [machine(not_before=LONG_AGO, not_after=EARLIER).der, SITE.der]),
    ("not yet valid", lambda: [machine(not_before=LATER).der, SITE.der]),
    ("under another authority", lambda: [machine(OTHERS).der]),
    ("that authority beside it", lambda: [machine(OTHERS).der, OTHERS.der]),
    ("without its intermediate", lambda: [machine().der]),
    ("signed by itself", lambda: [certificates.root("node-7", uri=None).der]),
    ("an authority's", lambda: [SITE.der]),
    ("a trusted root itself", lambda: [MACHINES.der]),
    ("signed by a machine", lambda: [machine(own := machine()).der, own.der, SITE.der]),
    ("for servers only", lambda: [machine(extra=uses(ExtendedKeyUsageOID.SERVER_AUTH)).der, SITE.der]),
    ("for encryption only", lambda: [machine(**usage("key_encipherment")).der, SITE.der]),
    ("for signing certificates", lambda: [machine(**usage("digital_signature", "key_cert_sign")).der, SITE.der]),
    ("an unknown critical extension", lambda: [machine(extra=(certificates.UNKNOWN_CRITICAL,)).der, SITE.der]),
    ("a key of 1024 bits", lambda: [machine(key=certificates.rsa_key(1024)).der, SITE.der]),
    ("a key on P-521", lambda: [machine(key=ec.generate_private_key(ec.SECP521R1())).der, SITE.der]),
    ("six certificates", lambda: [each.der for each in deep(5)]),
    ("a hundred certificates", lambda: [machine().der, *[SITE.der] * 99]),
    (
        "under an intermediate for servers only",
        lambda: [
            machine(
                only := certificates.intermediate(
                    MACHINES, "tls", uri=None, extra=uses(ExtendedKeyUsageOID.SERVER_AUTH)
                )
            ).der,
            only.der,
        ],
    ),
    (
        "an intermediate that ended",
        lambda: [machine(old := certificates.intermediate(MACHINES, "old", uri=None, not_after=EARLIER)).der, old.der],
    ),
    (
        "signed with SHA-1",
        lambda: [
            certificates.resigned_with_sha1(
                machine(rsa := certificates.intermediate(MACHINES, "rsa", uri=None, key=certificates.rsa_key())), rsa
            ).der,
            rsa.der,
        ],
    ),
]


@pytest.mark.parametrize("chain", [chain for _, chain in REFUSED], ids=[name for name, _ in REFUSED])
async def test_any_other_certificate_is_refused_before_a_nonce_is_given(
    server: Joiner, chain: Callable[[], Sequence[bytes]]
) -> None:
    with pytest.raises(Unauthenticated) as refused:
        await server.x509pop.claim(chain(), csr())
    assert refused.value.reason is Reason.X509POP_REFUSED
    assert await server.recorded() == {}


async def test_a_chain_of_five_is_not_too_long(server: Joiner) -> None:
    own, *above = deep(4)
    assert is_agent_id((await join(server, own, *above)).spiffe_id)


async def test_only_the_holder_of_the_key_gets_in(server: Joiner) -> None:
    own = machine()
    chain = [own.der, SITE.der]
    claim, other = await server.x509pop.claim(chain, csr()), await server.x509pop.claim(chain, csr())
    key: Any = own.key
    for what, signature in {
        "another key": claim.challenge.signed_by(new_key()),
        "the nonce of another try, or another request": other.challenge.signed_by(key),
        "nothing": b"",
        "garbage": b"x" * 1000,
    }.items():
        with pytest.raises(Unauthenticated) as refused:
            await claim.proven_by(signature, origin="")
        assert refused.value.reason is Reason.X509POP_REFUSED, what
    assert await server.recorded() == {}
    assert server.ledger.rows == []


async def test_a_bad_request_is_refused_before_a_nonce_is_given(server: Joiner) -> None:
    with pytest.raises(InvalidArgument) as refused:
        await server.x509pop.claim([machine().der, SITE.der], b"garbage")
    assert refused.value.reason is Reason.CSR_MALFORMED


async def test_nobody_joins_like_this_where_no_authority_is_trusted(server: Joiner, clock: FakeClock) -> None:
    closed = X509PopJoining(trust_domain=A_TEST, anchors=None, roster=server.roster, issuer=server.issuer, clock=clock)
    with pytest.raises(FailedPrecondition) as refused:
        await closed.claim([machine().der, SITE.der], csr())
    assert refused.value.reason is Reason.X509POP_REFUSED


def test_the_file_of_authorities_is_read_anew_each_time(tmp_path: Path) -> None:
    path = tmp_path / "machines.pem"
    path.write_bytes(MACHINES.pem + OTHERS.pem)
    file = AnchorFile(path)
    assert list(file.load()) == [MACHINES.certificate, OTHERS.certificate]
    path.write_bytes(OTHERS.pem)
    assert list(file.load()) == [OTHERS.certificate]


@pytest.mark.parametrize(
    "content", [None, b"", b"garbage", machine().pem, MACHINES.pem + machine().pem, b"x" * ((1 << 20) + 1)]
)
def test_a_file_of_anything_else_is_refused(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "machines.pem"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(CitadelError) as refused:
        AnchorFile(path).load()
    assert refused.value.reason is Reason.CONFIG_INVALID


@pytest.mark.parametrize(
    ("path", "is_one"),
    [
        ("/citadel/agent/node-1", True),
        ("/citadel/agent/x509pop", True),  # a token's agent of that name
        (f"/citadel/agent/x509pop/{'0a' * 32}", True),
        (f"/citadel/agent/x509pop/{'0A' * 32}", False),
        ("/citadel/agent/x509pop/00", False),
        (f"/citadel/agent/x509pop/{'0a' * 32}/b", False),
        (f"/citadel/agent/other/{'0a' * 32}", False),
        ("/citadel/server", False),
        ("/agent/node-1", False),
    ],
)
@pytest.mark.invariant(13)
def test_which_ids_are_agents(path: str, is_one: bool) -> None:
    assert is_agent_id(SpiffeId(A_TEST, path)) is is_one

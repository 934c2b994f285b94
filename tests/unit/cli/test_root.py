"""`citadel-cli root`: an offline root, authorities of clusters under it, and the mistakes that it stops."""

from __future__ import annotations

import json
import stat
import subprocess
import sys
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, load_pem_private_key
from cryptography.x509 import verification

from ca.authority.soundness import fits
from citadel.bundle import TrustBundle
from citadel.certification_path import find_path
from citadel.errors import CitadelError, Reason
from citadel.spiffe import TrustDomain
from citadel.svid import verify_x509_svid
from tests import certificates, csrs
from tests.certificates import NOW, Signed
from tests.unit.cli.fake_admin import Program

WEST, EAST = TrustDomain("west.test"), TrustDomain("east.test")
PASSPHRASE = "correct horse battery staple"


class Offline:
    """A machine with `citadel-cli root`, which is run in a folder of its own."""

    def __init__(self, program: Program, folder: Path) -> None:
        self._program = program
        self.folder = folder

    async def __call__(self, *words: str) -> dict[str, Any]:
        result = await self._program("-o", "json", "root", *words)
        assert result.exit_code == 0, result.output
        shown: dict[str, Any] = json.loads(result.stdout)
        return shown

    async def refused(self, *words: str, env: dict[str, str] | None = None) -> dict[str, Any]:
        result = await self._program("-o", "json", "root", *words, env=env)
        assert result.exit_code != 0, result.output
        error: dict[str, Any] = json.loads(result.stderr)["error"]
        assert error["exit_code"] == result.exit_code
        return error

    def __truediv__(self, name: str) -> str:
        return str(self.folder / name)

    async def several(self, *options: str) -> str:
        await self("init", "--out", self / "root", *options)
        return self / "root"

    async def sign(self, name: str, domain: TrustDomain, *options: str, root: str | None = None) -> dict[str, Any]:
        words = ("--root", root or self / "root", "--trust-domain", domain.name, "--out", self / name)
        return await self("sign", name, *words, *options)

    def authority(self, name: str) -> Signed:
        key = load_pem_private_key((self.folder / name / "ca-key.pem").read_bytes(), None)
        return Signed(self.certificate(name, "ca-cert.pem"), key)  # type: ignore[arg-type] # one that was made here

    def certificate(self, *parts: str) -> x509.Certificate:
        return x509.load_pem_x509_certificate(self.folder.joinpath(*parts).read_bytes())

    def bundle(self, domain: TrustDomain, *parts: str) -> TrustBundle:
        return TrustBundle(trust_domain=domain, x509_authorities=(self.certificate(*parts),))


@pytest.fixture
def offline(program: Program, tmp_path: Path) -> Offline:
    return Offline(program, tmp_path)


def modes(folder: Path) -> dict[str, int]:
    return {each.name: stat.S_IMODE(each.stat().st_mode) for each in (folder, *folder.iterdir())}


async def test_a_root_and_a_folder_for_each_cluster(offline: Offline) -> None:
    root = await offline.several()
    said = await offline.sign("west", WEST)
    assert modes(offline.folder / "root") == {
        "root": 0o700,
        "root-cert.pem": 0o600,
        "root-key.pem": 0o600,
        "signed.jsonl": 0o600,
    }
    assert modes(offline.folder / "west") == {
        "west": 0o700,
        "ca-cert.pem": 0o600,
        "ca-key.pem": 0o600,
        "cert-chain.pem": 0o600,
        "root-cert.pem": 0o600,
    }
    west, anchor = offline.authority("west"), offline.certificate("root", "root-cert.pem")
    assert fits(west.key, west.certificate)  # type: ignore[arg-type] # as above
    assert west.certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.path_length == 0
    assert west.certificate.not_valid_after_utc == NOW + timedelta(days=365)
    assert anchor.not_valid_after_utc == NOW + timedelta(days=3650)
    assert find_path(west.certificate, (), [anchor], now=NOW) == [west.certificate, anchor]
    chain = x509.load_pem_x509_certificates((offline.folder / "west" / "cert-chain.pem").read_bytes())
    assert chain == [west.certificate, anchor]  # as Istio's own tool makes it
    recorded = [json.loads(line) for line in (Path(root) / "signed.jsonl").read_text().splitlines()]
    assert [{**each, "note": said["note"]} for each in recorded] == [said]
    assert int(said["serial"], 16) == west.certificate.serial_number


async def test_clusters_of_different_trust_domains_are_confined_to_their_own(offline: Offline) -> None:
    await offline.several()
    said = [await offline.sign("west", WEST), await offline.sign("east", EAST)]
    assert [each["is_constrained"] for each in said] == [True, True]
    west, root = offline.authority("west"), ("root", "root-cert.pem")
    bundles = {each: offline.bundle(each, *root) for each in (WEST, EAST, TrustDomain("sub.west.test"))}
    constraints = west.certificate.extensions.get_extension_for_class(x509.NameConstraints)
    assert constraints.critical
    assert constraints.value.permitted_subtrees == [x509.UniformResourceIdentifier("west.test")]
    good = certificates.leaf(west, "spiffe://west.test/web")
    assert verify_x509_svid([good.der, west.der], bundles, NOW).spiffe_id.path == "/web"
    for foreign in ("spiffe://east.test/web", "spiffe://sub.west.test/web"):
        leaf = certificates.leaf(west, foreign)
        with pytest.raises(CitadelError, match="permitted subtree violation") as refused:
            verify_x509_svid([leaf.der, west.der], bundles, NOW)
        assert refused.value.reason is Reason.SVID_UNTRUSTED


@pytest.mark.parametrize("name", ["west_1.test", "10.1.2.3"])
async def test_names_that_envoy_refuses_under_a_constraint_get_a_root_of_their_own(offline: Offline, name: str) -> None:
    await offline.several()
    domain = TrustDomain(name)
    error = await offline.refused(
        "sign", "w", "--root", offline / "root", "--trust-domain", name, "--out", offline / "w"
    )
    assert (error["reason"], "Envoy refuses" in error["message"]) == ("authority_refused", True)
    await offline("init", "--out", offline / "own", "--trust-domain", name)
    assert (await offline.sign("w", domain, root=offline / "own"))["is_constrained"] is False


@pytest.mark.parametrize("name", [".test", "test.", "a..test", ".."])
async def test_names_that_a_constraint_would_not_mean_alone_are_refused(offline: Offline, name: str) -> None:
    await offline.several()
    error = await offline.refused(
        "sign", "w", "--root", offline / "root", "--trust-domain", name, "--out", offline / "w"
    )
    assert (error["reason"], "this name alone" in error["message"]) == ("authority_refused", True)


async def test_cryptographys_own_verifier_refuses_every_chain_with_such_a_constraint(offline: Offline) -> None:
    # Why OpenSSL walks paths here. Where this fails, it has learnt them.
    await offline.several()
    await offline.sign("west", WEST)
    west = offline.authority("west")
    store = verification.Store([offline.certificate("root", "root-cert.pem")])
    verifier = verification.PolicyBuilder().store(store).time(NOW).build_client_verifier()
    with pytest.raises(verification.VerificationError, match="name constraint"):
        verifier.verify(certificates.leaf(west, "spiffe://west.test/web").certificate, [west.certificate])


async def test_under_a_root_of_one_trust_domain_every_cluster_can_mint_every_identity_and_hears_so(
    offline: Offline, program: Program
) -> None:
    root = await offline.several("--trust-domain", WEST.name)
    said = await offline.sign("a", WEST)
    assert said["is_constrained"] is False
    certificate = offline.certificate("a", "ca-cert.pem")
    with pytest.raises(x509.ExtensionNotFound):
        certificate.extensions.get_extension_for_class(x509.NameConstraints)
    shown = await program("root", "sign", "b", "--root", root, "--trust-domain", WEST.name, "--out", offline / "b")
    assert "Every cluster under this root can mint every identity of west.test" in shown.stdout
    names = offline.certificate("root", "root-cert.pem").extensions
    uris = names.get_extension_for_class(x509.SubjectAlternativeName).value
    assert uris.get_values_for_type(x509.UniformResourceIdentifier) == ["spiffe://west.test"]
    error = await offline.refused("sign", "c", "--root", root, "--trust-domain", EAST.name, "--out", offline / "c")
    assert (error["reason"], error["exit_code"]) == ("authority_refused", 3)
    assert "is for spiffe://west.test, not spiffe://east.test" in error["message"]


async def test_with_a_request_the_key_never_leaves_its_maker(offline: Offline) -> None:
    await offline.several()
    key = csrs.new_key()
    for form, content in (("der", csrs.csr(key)), ("pem", as_pem(csrs.csr(key)))):
        (offline.folder / f"west.{form}").write_bytes(content)
        said = await offline.sign(f"west-{form}", WEST, "--csr", offline / f"west.{form}")
        assert said["by_request"] is True
        assert sorted(each.name for each in (offline.folder / f"west-{form}").iterdir()) == [
            "ca-cert.pem",
            "cert-chain.pem",
            "root-cert.pem",
        ]
        assert fits(key, offline.certificate(f"west-{form}", "ca-cert.pem"))


def as_pem(der: bytes) -> bytes:
    return x509.load_der_x509_csr(der).public_bytes(Encoding.PEM)


def asking(*extensions: x509.ExtensionType) -> bytes:
    builder = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([]))
    for extension in extensions:
        builder = builder.add_extension(extension, critical=False)
    return builder.sign(csrs.new_key(), hashes.SHA256()).public_bytes(Encoding.PEM)


def basic(path_length: int | None) -> x509.BasicConstraints:
    return x509.BasicConstraints(ca=True, path_length=path_length)


REQUESTS = {
    "nothing": (b"", "csr_malformed", "not one PKCS#10 request"),
    "garbage": (b"garbage", "csr_malformed", "not one PKCS#10 request"),
    "a certificate": (certificates.root().pem, "csr_malformed", "not one PKCS#10 request"),
    "half a request": (as_pem(csrs.csr())[:200], "csr_malformed", "not one PKCS#10 request"),
    "a wrong signature": (csrs.with_wrong_signature(csrs.csr()), "csr_bad_signature", "not signed by the key"),
    "another key's signature": (csrs.signed_by_another_key(), "csr_bad_signature", "not signed by the key"),
    "RSA-1024": (csrs.csr(certificates.rsa_key(1024)), "csr_key_refused", "RSA with 1024 bits"),
    "P-521": (csrs.csr(csrs.new_key(ec.SECP521R1())), "csr_key_refused", "secp521r1"),
    "Ed25519": (csrs.csr(ed25519.Ed25519PrivateKey.generate()), "csr_key_refused", "Ed25519"),
    "another domain": (asking(certificates.san("spiffe://east.test")), "authority_refused", "spiffe://east.test"),
    "an identity": (asking(certificates.san("spiffe://west.test/web")), "authority_refused", "west.test/web"),
    "two domains": (
        asking(certificates.san("spiffe://west.test", "spiffe://east.test")),
        "authority_refused",
        "spiffe://east.test",
    ),
    "a path length of 1": (asking(basic(1)), "authority_refused", "asks for 1 as path length"),
    "any path length": (asking(basic(None)), "authority_refused", "asks for no limit as path length"),
}


@pytest.mark.parametrize(("content", "reason", "words"), REQUESTS.values(), ids=REQUESTS)
async def test_a_request_that_is_damaged_or_asks_for_more_is_refused(
    offline: Offline, content: bytes, reason: str, words: str
) -> None:
    root = await offline.several()
    (offline.folder / "csr").write_bytes(content)
    words_of_it = ("--trust-domain", WEST.name, "--csr", offline / "csr", "--out", offline / "west")
    error = await offline.refused("sign", "west", "--root", root, *words_of_it)
    assert error["reason"] == reason
    assert words in error["message"]
    assert not (offline.folder / "west").exists()
    assert not (offline.folder / "root" / "signed.jsonl").exists()


async def test_a_request_may_ask_for_what_it_gets(offline: Offline) -> None:
    await offline.several()
    (offline.folder / "csr").write_bytes(asking(basic(0), certificates.san("spiffe://west.test")))
    await offline.sign("west", WEST, "--csr", offline / "csr")


def put_root(folder: Path, root: Signed, *, key: certificates.PrivateKey | None = None, further: bytes = b"") -> None:
    folder.mkdir(mode=0o700)
    (folder / "root-cert.pem").write_bytes(root.pem + further)
    pem = (key or root.key).private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    (folder / "root-key.pem").write_bytes(pem)
    (folder / "root-key.pem").chmod(0o600)


def foreign_root(**changes: object) -> Signed:
    return certificates.root(uri=None, **{"lifetime": timedelta(days=900), **changes})


ROOTS: dict[str, tuple[Callable[[], Signed], str]] = {
    "no room below it": (lambda: foreign_root(constraints=basic(0)), "path length is 0"),
    "expired": (lambda: foreign_root(lifetime=timedelta(seconds=0)), "the root has expired"),
    "not yet valid": (lambda: foreign_root(not_before=NOW + timedelta(days=1)), "not valid before"),
    "no CA": (lambda: foreign_root(constraints=None), "is not a CA certificate"),
    "no keyCertSign": (lambda: foreign_root(usage=certificates.key_usage("crl_sign")), "lacks keyCertSign"),
    "RSA-1024": (lambda: foreign_root(key=certificates.rsa_key(1024)), "RSA key of 1024 bits"),
    "P-521": (lambda: foreign_root(key=csrs.new_key(ec.SECP521R1())), "curve secp521r1"),
    "an intermediate": (lambda: certificates.intermediate(foreign_root()), "is not self-signed"),
    "another domain": (lambda: certificates.root(lifetime=timedelta(days=900)), "is for spiffe://a.test"),
    "constrained to another domain": (
        lambda: foreign_root(extra=(certificates.permitted("east.test"),)),
        "may sign only within east.test",
    ),
    "a short rest of life": (lambda: foreign_root(lifetime=timedelta(days=364)), "nothing outlives it"),
}


@pytest.mark.parametrize(("make", "words"), ROOTS.values(), ids=ROOTS)
async def test_a_root_that_cannot_or_should_not_sign_is_refused(
    offline: Offline, make: Callable[[], Signed], words: str
) -> None:
    put_root(offline.folder / "root", make())
    options = ("--root", offline / "root", "--trust-domain", WEST.name, "--out", offline / "west")
    error = await offline.refused("sign", "west", *options)
    assert error["reason"] == "authority_refused"
    assert words in error["message"]
    assert not (offline.folder / "west").exists()


async def test_a_root_that_istios_tool_made_signs(offline: Offline) -> None:
    put_root(offline.folder / "root", foreign_root(key=certificates.rsa_key(2048)))
    assert (await offline.sign("west", WEST))["is_constrained"] is True


FOLDERS: dict[str, tuple[Callable[[Path], object], str, str]] = {
    "there is none": (lambda folder: folder.rename(folder.with_name("away")), "file_unsafe", "there is no folder"),
    "others can enter it": (lambda folder: folder.chmod(0o755), "file_unsafe", "has mode 0755"),
    "others can read the key": (
        lambda folder: (folder / "root-key.pem").chmod(0o640),
        "file_unsafe",
        "root-key.pem has mode 0640",
    ),
    "the key is missing": (lambda folder: (folder / "root-key.pem").unlink(), "file_unsafe", "cannot be opened"),
    "the certificate is missing": (
        lambda folder: (folder / "root-cert.pem").unlink(),
        "file_unsafe",
        "cannot be opened",
    ),
    "half a certificate": (
        lambda folder: (folder / "root-cert.pem").write_bytes((folder / "root-cert.pem").read_bytes()[:300]),
        "svid_malformed",
        "is damaged",
    ),
    "half a key": (
        lambda folder: (folder / "root-key.pem").write_bytes((folder / "root-key.pem").read_bytes()[:100]),
        "authority_refused",
        "is not one whole private key",
    ),
    "another key": (
        lambda folder: (folder / "root-key.pem").write_bytes(
            csrs.new_key().private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        ),
        "authority_refused",
        "does not fit",
    ),
    "two roots": (
        lambda folder: (folder / "root-cert.pem").write_bytes(
            (folder / "root-cert.pem").read_bytes() + certificates.root().pem
        ),
        "authority_refused",
        "holds 2 certificates",
    ),
}


@pytest.mark.parametrize(("spoil", "reason", "words"), FOLDERS.values(), ids=FOLDERS)
async def test_a_folder_that_is_not_safe_or_not_whole_is_refused(
    offline: Offline, spoil: Callable[[Path], object], reason: str, words: str
) -> None:
    root = await offline.several()
    spoil(offline.folder / "root")
    error = await offline.refused("sign", "west", "--root", root, "--trust-domain", WEST.name, "--out", offline / "w")
    assert error["reason"] == reason
    assert words in error["message"]


async def test_nothing_is_overwritten(offline: Offline) -> None:
    root = await offline.several()
    before = (offline.folder / "root" / "root-key.pem").read_bytes()
    (offline.folder / "empty").mkdir()
    (offline.folder / "dangling").symlink_to("nowhere")
    for taken in ("root", "empty", "dangling"):
        for words in (("init",), ("sign", "west", "--root", root, "--trust-domain", WEST.name)):
            error = await offline.refused(*words, "--out", offline / taken)
            assert (error["reason"], error["exit_code"]) == ("file_unsafe", 5)
    assert (offline.folder / "root" / "root-key.pem").read_bytes() == before
    assert list((offline.folder / "empty").iterdir()) == []


async def test_names_and_lifetimes_that_make_no_sense_are_refused(offline: Offline) -> None:
    root = await offline.several()
    for name in ("..", "../west", "a/b", ".west", "-x", "w" * 41, "wést"):
        error = await offline.refused("sign", "--root", root, "--trust-domain", WEST.name, "--", name)
        assert error["reason"] == "authority_refused"
    for lifetime in ("0s", "59m", "36526d"):
        error = await offline.refused("init", "--out", offline / "other", "--lifetime", lifetime)
        assert error["reason"] == "authority_refused"
    for domain in ("West.test", "west test", "spiffe://", "west.test/web"):
        error = await offline.refused("sign", "west", "--root", root, "--trust-domain", domain, "--out", offline / "w")
        assert error["reason"] in ("trust_domain_malformed", "id_malformed")


async def test_a_key_is_encrypted_with_a_passphrase_that_no_argument_holds(offline: Offline, program: Program) -> None:
    file = offline.folder / "passphrase"
    file.write_text(f"{PASSPHRASE}\n")
    file.chmod(0o600)
    root = await offline.several("--passphrase-file", str(file))
    assert b"ENCRYPTED" in (offline.folder / "root" / "root-key.pem").read_bytes()
    error = await offline.refused("sign", "west", "--root", root, "--trust-domain", WEST.name, "--out", offline / "w")
    assert (error["reason"], "is encrypted" in error["message"]) == ("authority_refused", True)
    await offline.sign("west", WEST, "--passphrase-file", str(file))
    file.write_text("another passphrase, just as long")
    options = ("--trust-domain", WEST.name, "--out", offline / "w", "--passphrase-file", str(file))
    error = await offline.refused("sign", "west", "--root", root, *options)
    assert "does not open with this passphrase" in error["message"]
    file.chmod(0o644)
    assert (await offline.refused("sign", "west", "--root", root, *options))["reason"] == "file_unsafe"
    typed = f"{PASSPHRASE}\n{PASSPHRASE}\n".encode()
    asked = await program("root", "init", "--out", offline / "asked", "--ask-passphrase", stdin=typed)
    assert asked.exit_code == 0, asked.output
    assert PASSPHRASE not in asked.output
    key = load_pem_private_key((offline.folder / "asked" / "root-key.pem").read_bytes(), PASSPHRASE.encode())
    assert isinstance(key, ec.EllipticCurvePrivateKey)


def test_without_a_terminal_no_passphrase_is_asked_for(tmp_path: Path) -> None:
    program = "from cli.citadel_cli import main; main()"
    words = ("root", "init", "--out", str(tmp_path / "root"), "--ask-passphrase")
    done = subprocess.run(
        (sys.executable, "-c", program, *words),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        start_new_session=True,  # without the terminal that tests may have
    )
    assert done.returncode == 3
    assert "try: name a file with it: --passphrase-file" in done.stderr
    assert "Warning" not in done.stderr
    assert not (tmp_path / "root").exists()


async def test_what_is_not_there_is_not_shown(offline: Offline, program: Program) -> None:
    assert (await program("root", "show", str(offline.folder / "nowhere"))).exit_code == 4


async def test_a_short_passphrase_is_refused(offline: Offline) -> None:
    file = offline.folder / "passphrase"
    file.write_text("short\n")
    file.chmod(0o600)
    error = await offline.refused("init", "--out", offline / "root", "--passphrase-file", str(file))
    assert "fewer than 12 bytes" in error["message"]
    assert not (offline.folder / "root").exists()


@pytest.mark.parametrize(("kind", "digest"), [("ec-p384", hashes.SHA384), ("rsa-4096", hashes.SHA256)])
async def test_stronger_keys_are_made_and_signed_as_strongly(offline: Offline, kind: str, digest: type) -> None:
    await offline.several("--key", kind)
    await offline.sign("west", WEST, "--key", kind)
    west = offline.authority("west")
    assert isinstance(west.certificate.signature_hash_algorithm, digest)
    leaf = certificates.leaf(west, "spiffe://west.test/web")
    verify_x509_svid([leaf.der, west.der], {WEST: offline.bundle(WEST, "root", "root-cert.pem")}, NOW)


async def test_further_roots_are_trusted_beside_the_one_that_signs(offline: Offline) -> None:
    await offline.several()
    await offline("init", "--out", offline / "next")
    following = offline.folder / "next" / "root-cert.pem"
    await offline.sign("west", WEST, "--trust", str(following))
    roots = x509.load_pem_x509_certificates((offline.folder / "west" / "root-cert.pem").read_bytes())
    assert roots == [offline.certificate("root", "root-cert.pem"), offline.certificate("next", "root-cert.pem")]
    options = ("--root", offline / "root", "--trust-domain", WEST.name, "--out", offline / "w")
    error = await offline.refused("sign", "w", *options, "--trust", offline / "west/ca-cert.pem")
    assert "is not self-signed" in error["message"]


async def test_a_record_that_cannot_be_written_stops_the_signing(offline: Offline) -> None:
    root = await offline.several()
    (offline.folder / "root" / "signed.jsonl").mkdir()
    error = await offline.refused("sign", "west", "--root", root, "--trust-domain", WEST.name, "--out", offline / "w")
    assert error["reason"] == "file_unsafe"
    assert not (offline.folder / "w").exists()


async def test_a_folder_is_shown_with_what_its_root_signed(offline: Offline, program: Program) -> None:
    await offline.several()
    await offline.sign("west", WEST)
    shown = await offline("show", offline / "root")
    assert [each["cluster"] for each in shown["signed"]] == ["west"]
    shown = await offline("show", offline / "west")
    assert [(each["file"], each["path_length"], each["signs_only_for"]) for each in shown["certificates"]] == [
        ("ca-cert.pem", 0, ["west.test"]),
        ("cert-chain.pem", 0, ["west.test"]),
        ("cert-chain.pem", None, []),
        ("root-cert.pem", None, []),
    ]
    assert all(not each["faults"] for each in shown["certificates"])
    table = await program("root", "show", offline / "west")
    assert "west.test" in table.stdout
    (offline.folder / "old.pem").write_bytes(foreign_root(lifetime=timedelta(seconds=0)).pem)
    table = await program("root", "show", offline / "old.pem")
    assert "- old.pem has expired" in table.stdout

"""Reading a folder with an authority: what is taken, and everything that is not, with the file that is to blame."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.serialization import BestAvailableEncryption, Encoding, PrivateFormat

from ca.upstream.files.folder import ISTIO, SECRET, Names, read_folder
from ca.upstream.files.offer import Offer, offer_of
from citadel.errors import FailedPrecondition, Reason
from citadel.spiffe import TrustDomain
from tests import certificates
from tests.certificates import A_TEST, NOW, Signed
from tests.csrs import new_key
from tests.folders import a_root, an_issuer, contents, key_pem, put

DAY = timedelta(days=1)
ROOT = a_root()
ISSUER = an_issuer(ROOT)
OTHER_ROOT = a_root("other root")
FILES = contents(ISSUER, ROOT)
CERTIFICATE, KEY, ROOTS, CHAIN = "ca-cert.pem", "ca-key.pem", "root-cert.pem", "cert-chain.pem"


def read(folder: Path, *, trust_domain: TrustDomain = A_TEST, trusted: tuple[x509.Certificate, ...] = ()) -> Offer:
    return offer_of(read_folder(folder), trust_domain=trust_domain, now=NOW, trusted=trusted)


def refusal(folder: Path, trust_domain: TrustDomain = A_TEST) -> str:
    with pytest.raises(FailedPrecondition) as refused:
        read(folder, trust_domain=trust_domain)
    assert refused.value.reason is Reason.UPSTREAM_INVALID
    return str(refused.value)


@pytest.mark.parametrize("names", [ISTIO, SECRET], ids=["istio", "secret"])
def test_a_folder_is_taken_under_either_names(tmp_path: Path, names: Names) -> None:
    offer = read(put(tmp_path / "ca", contents(ISSUER, ROOT, names=names)))
    assert (offer.certificate, offer.root, offer.roots) == (ISSUER.certificate, ROOT.certificate, (ROOT.certificate,))
    assert offer.chain == ()
    assert offer.key.public_key() == ISSUER.certificate.public_key()
    assert "key" not in repr(offer).replace("key=", "")  # no secret where it may be logged


def test_an_authority_that_names_no_trust_domain_is_taken_where_agents_can_tell_what_it_is(tmp_path: Path) -> None:
    read(put(tmp_path / "istio", contents(an_issuer(ROOT, uri=None), ROOT)))
    root = a_root("of the trust domain", uri="spiffe://a.test")
    nameless = certificates.intermediate(root, uri=None, path_length=None, lifetime=100 * DAY)
    read(put(tmp_path / "cert-manager", contents(nameless, root)))


@pytest.mark.parametrize("names", [ISTIO, SECRET], ids=["istio", "secret"])
def test_an_authority_may_stand_further_below_its_root(tmp_path: Path, names: Names) -> None:
    upper = certificates.intermediate(ROOT, "upper", path_length=2, lifetime=300 * DAY)
    lower = certificates.intermediate(upper, "lower", path_length=1, lifetime=300 * DAY)
    issuer = an_issuer(lower, lifetime=200 * DAY)
    offer = read(put(tmp_path / "ca", contents(issuer, ROOT, between=[lower, upper], names=names)))
    assert (offer.chain, offer.root) == ((lower.certificate, upper.certificate), ROOT.certificate)


@pytest.mark.parametrize(
    "key",
    [certificates.rsa_key(2048), certificates.rsa_key(4096), new_key(ec.SECP384R1())],
    ids=["rsa-2048", "rsa-4096", "ec-p384"],
)
def test_every_kind_of_key_that_istio_and_others_make_is_taken(tmp_path: Path, key: certificates.PrivateKey) -> None:
    root = a_root(key=key)
    read(put(tmp_path / "ca", contents(an_issuer(root, key=certificates.rsa_key(2048)), root)))
    read(put(tmp_path / "ca", contents(an_issuer(ROOT, key=key), ROOT)))


def test_several_roots_are_listed_and_the_one_that_is_trusted_already_is_taken(tmp_path: Path) -> None:
    folder = put(tmp_path / "ca", contents(ISSUER, ROOT, also=[OTHER_ROOT, ROOT]))
    assert read(folder).roots == (ROOT.certificate, OTHER_ROOT.certificate)
    # The same authority under two roots of one key, as where a root was made anew and its key was not.
    again = a_root(key=ROOT.key, serial=7)
    folder = put(tmp_path / "ca", contents(ISSUER, ROOT, also=[again]))
    assert read(folder).root == ROOT.certificate
    assert read(folder, trusted=(again.certificate,)).root == again.certificate


def test_a_root_that_has_ended_and_was_left_there_is_passed_over(tmp_path: Path) -> None:
    ended = a_root("old", lifetime=timedelta(0))
    assert read(put(tmp_path / "ca", contents(ISSUER, ROOT, also=[ended]))).roots == (ROOT.certificate,)


def test_a_secret_that_kubernetes_mounts_is_read_with_the_modes_that_it_has(tmp_path: Path) -> None:
    version = put(tmp_path / "ca" / "..v1" if (tmp_path / "ca").mkdir() is None else tmp_path, FILES)
    for name in FILES:
        (version / name).chmod(0o644)
        (tmp_path / "ca" / name).symlink_to(f"..data/{name}")
    (tmp_path / "ca").chmod(0o1777)
    (tmp_path / "ca" / "..data").symlink_to("..v1")
    assert read(tmp_path / "ca").certificate == ISSUER.certificate


def bad(**changes: object) -> dict[str, bytes]:
    return contents(an_issuer(ROOT, **changes), ROOT)


def encrypted(key: certificates.PrivateKey) -> bytes:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"long enough to be one"))


def no_room() -> dict[str, bytes]:
    upper = certificates.intermediate(ROOT, "upper", path_length=0, lifetime=300 * DAY)
    return contents(an_issuer(upper, lifetime=200 * DAY), ROOT, between=[upper])


def without_key_identifier() -> Signed:
    good = ISSUER.certificate
    builder = x509.CertificateBuilder(
        good.issuer, good.subject, good.public_key(), 1, good.not_valid_before_utc, good.not_valid_after_utc
    )
    for each in good.extensions:
        if each.oid != x509.SubjectKeyIdentifier.oid:
            builder = builder.add_extension(each.value, each.critical)
    return Signed(builder.sign(ROOT.key, ec.ECDSA(certificates.hashes.SHA256()).algorithm), ISSUER.key)  # type: ignore[arg-type] # as the profile does


RSA_ROOT = a_root("rsa root", key=certificates.rsa_key(2048))
BELOW_RSA = an_issuer(RSA_ROOT)
SHA_1 = certificates.resigned_with_sha1(BELOW_RSA, RSA_ROOT)
TWIN = a_root()  # of ROOT's name, with another key
GARBAGE = b"\x00\xff garbage"

REFUSED: dict[str, tuple[Callable[[], dict[str, bytes]], str, str]] = {
    "no certificate": (lambda: without(CERTIFICATE), CERTIFICATE, "cannot be opened: No such file"),
    "no key": (lambda: without(KEY), KEY, "cannot be opened: No such file"),
    "no roots": (lambda: without(ROOTS), ROOTS, "cannot be opened: No such file"),
    "no chain": (lambda: without(CHAIN), CHAIN, "cannot be opened: No such file"),
    "nothing": (dict, CERTIFICATE, "cannot be opened: No such file"),
    "both namings": (lambda: FILES | {"tls.crt": b""}, "ca", "holds both ca-cert.pem and tls.crt"),
    "an empty certificate": (lambda: FILES | {CERTIFICATE: b""}, CERTIFICATE, "the input is empty"),
    "garbage for a certificate": (lambda: FILES | {CERTIFICATE: GARBAGE}, CERTIFICATE, "no whole file"),
    "a key for a certificate": (lambda: FILES | {CERTIFICATE: FILES[KEY]}, CERTIFICATE, "a private key"),
    "an empty key": (lambda: FILES | {KEY: b""}, KEY, "is not one whole private key"),
    "garbage for a key": (lambda: FILES | {KEY: GARBAGE}, KEY, "is not one whole private key"),
    "a certificate for a key": (lambda: FILES | {KEY: FILES[CERTIFICATE]}, KEY, "is not one whole private key"),
    "an encrypted key": (lambda: FILES | {KEY: encrypted(ISSUER.key)}, KEY, "is encrypted"),
    "another key": (lambda: FILES | {KEY: key_pem(new_key())}, KEY, "does not fit ca-cert.pem"),
    "an Ed25519 key": (
        lambda: FILES | {KEY: key_pem(ed25519.Ed25519PrivateKey.generate())},
        KEY,
        "Ed25519",
    ),
    "empty roots": (lambda: FILES | {ROOTS: b""}, ROOTS, "the input is empty"),
    "garbage in the chain": (lambda: FILES | {CHAIN: GARBAGE}, CHAIN, "no whole file"),
    "files that are too large": (lambda: FILES | {ROOTS: ROOT.pem * 3000}, ROOTS, "is larger than"),
    "too many roots": (lambda: FILES | {ROOTS: b"".join(each.pem for each in many_roots())}, ROOTS, "more than 64"),
    "expired": (lambda: bad(lifetime=timedelta(0)), CERTIFICATE, "has expired"),
    "not yet valid": (lambda: bad(not_before=NOW + DAY), CERTIFICATE, "is not valid before"),
    "a leaf": (lambda: contents(certificates.leaf(ROOT), ROOT), CERTIFICATE, "is not a CA certificate"),
    "no keyCertSign": (lambda: bad(usage=certificates.key_usage("crl_sign")), CERTIFICATE, "lacks keyCertSign"),
    "no key usage": (lambda: bad(usage=None), CERTIFICATE, "lacks keyCertSign"),
    "no key identifier": (
        lambda: contents(without_key_identifier(), ROOT),
        CERTIFICATE,
        "no subject key identifier",
    ),
    "no name": (lambda: bad(subject=x509.Name([])), CERTIFICATE, "has an empty subject"),
    "of another trust domain": (lambda: bad(uri="spiffe://b.test"), CERTIFICATE, "is for spiffe://b.test"),
    "constrained to another trust domain": (
        lambda: bad(extra=(certificates.permitted("b.test"),)),
        CERTIFICATE,
        "may sign only within b.test",
    ),
    "constrained to what is below the trust domain": (
        lambda: bad(extra=(certificates.permitted(".a.test"),)),
        CERTIFICATE,
        "may sign only within .a.test",
    ),
    "the trust domain excluded": (
        lambda: bad(extra=(certificates.excluded("a.test"),)),
        CERTIFICATE,
        "may not sign for a.test",
    ),
    "an extension that nobody knows": (
        lambda: bad(extra=(certificates.UNKNOWN_CRITICAL,)),
        CERTIFICATE,
        "leads to no root",
    ),
    "of no trust domain, as one between": (
        lambda: contents(certificates.intermediate(ROOT, uri=None, path_length=None, lifetime=100 * DAY), ROOT),
        CERTIFICATE,
        "agents could not know their server",
    ),
    "RSA-1024": (lambda: bad(key=certificates.rsa_key(1024)), CERTIFICATE, "RSA key of 1024 bits"),
    "P-521": (lambda: bad(key=new_key(ec.SECP521R1())), CERTIFICATE, "curve secp521r1"),
    "SHA-1": (lambda: contents(SHA_1, RSA_ROOT), CERTIFICATE, "signed with sha1"),
    "under another root": (lambda: contents(ISSUER, OTHER_ROOT), CERTIFICATE, "leads to no root in root-cert.pem"),
    "under a root of the right name": (lambda: contents(ISSUER, TWIN), CERTIFICATE, "leads to no root"),
    "no room above": (no_room, CERTIFICATE, "signs nothing that peers would take"),
    "something missing in between": (
        lambda: contents(an_issuer(certificates.intermediate(ROOT, path_length=1)), ROOT),
        CERTIFICATE,
        "leads to no root",
    ),
    "a root for an authority": (lambda: contents(ROOT, ROOT), CERTIFICATE, "leads to no root"),
    "an intermediate for a root": (lambda: contents(ISSUER, ROOT, also=[ISSUER]), ROOTS, "is not self-signed"),
    "a leaf for a root": (
        lambda: contents(ISSUER, ROOT, also=[a_root("leaf", constraints=None)]),
        ROOTS,
        "is not a CA certificate",
    ),
    "a root of another trust domain": (
        lambda: contents(ISSUER, ROOT, also=[certificates.root("b", "spiffe://b.test")]),
        ROOTS,
        "is for spiffe://b.test",
    ),
    "a weak root": (
        lambda: contents(ISSUER, ROOT, also=[a_root("weak", key=certificates.rsa_key(1024))]),
        ROOTS,
        "RSA key of 1024 bits",
    ),
    "an expired root": (
        lambda: contents(an_issuer(ended := a_root("ended", lifetime=timedelta(0))), ended),
        ROOTS,
        "lists no root that has not expired",
    ),
    "two roots of one name": (lambda: contents(ISSUER, ROOT, also=[TWIN]), ROOTS, "two roots of one name"),
}


def without(name: str) -> dict[str, bytes]:
    return {each: content for each, content in FILES.items() if each != name}


def many_roots() -> Iterator[Signed]:
    return (a_root(f"root {number}") for number in range(65))


@pytest.mark.parametrize(("make", "file", "words"), REFUSED.values(), ids=REFUSED)
def test_a_folder_that_would_break_something_is_refused_and_names_the_file(
    tmp_path: Path, make: Callable[[], dict[str, bytes]], file: str, words: str
) -> None:
    said = refusal(put(tmp_path / "ca", make()))
    assert words in said
    assert str(tmp_path / "ca" / file if file != "ca" else tmp_path / "ca") in said


MODES: dict[str, tuple[Callable[[Path], object], str]] = {
    "others can read the key": (lambda folder: (folder / KEY).chmod(0o640), "ca-key.pem has mode 0640"),
    "others can write the roots": (lambda folder: (folder / ROOTS).chmod(0o666), "can change it"),
    "others can exchange files": (lambda folder: folder.chmod(0o777), "others can exchange what is in it"),
    "a pipe for a key": (lambda folder: ((folder / KEY).unlink(), os.mkfifo(folder / KEY)), "is not a regular file"),
    "a folder for a key": (lambda folder: ((folder / KEY).unlink(), (folder / KEY).mkdir()), "Is a directory"),
    "no folder": (lambda folder: folder.rename(folder.with_name("away")), "cannot be read: No such file"),
    "a file for a folder": (
        lambda folder: (folder.rename(folder.with_name("away")), folder.write_bytes(b"")),
        "is not a folder",
    ),
}


@pytest.mark.parametrize(("spoil", "words"), MODES.values(), ids=MODES)
def test_a_folder_that_others_can_read_or_change_is_refused(
    tmp_path: Path, spoil: Callable[[Path], object], words: str
) -> None:
    folder = put(tmp_path / "ca", FILES)
    spoil(folder)
    assert words in refusal(folder)


def test_a_name_that_envoy_cannot_check_is_refused_with_a_constraint_alone(tmp_path: Path) -> None:
    domain = TrustDomain("a_test")
    uri = {"uri": "spiffe://a_test"}
    read(put(tmp_path / "ca", contents(an_issuer(ROOT, **uri), ROOT)), trust_domain=domain)
    constrained = an_issuer(ROOT, extra=(certificates.permitted("a_test"),), **uri)
    assert "Envoy then refuses" in refusal(put(tmp_path / "ca", contents(constrained, ROOT)), domain)


@pytest.mark.parametrize("names", [ISTIO, SECRET], ids=["istio", "secret"])
def test_a_file_that_is_half_written_is_never_taken_for_another_authority(tmp_path: Path, names: Names) -> None:
    upper = certificates.intermediate(ROOT, "upper", path_length=1, lifetime=300 * DAY)
    whole = contents(an_issuer(upper, lifetime=200 * DAY), ROOT, between=[upper], also=[OTHER_ROOT], names=names)
    folder = put(tmp_path / "ca", whole)
    good = read(folder)
    taken = 0
    for name, content in whole.items():
        cuts = {*range(0, len(content), 100), *range(max(0, len(content) - 3), len(content))}
        for cut in sorted(cuts):
            put(folder, whole | {name: content[:cut]})
            try:
                offer = read(folder)
            except FailedPrecondition as refused:
                assert refused.reason is Reason.UPSTREAM_INVALID  # noqa: PT017 - most are refused, and all with this
                continue
            taken += 1
            assert (offer.certificate, offer.chain, offer.root) == (good.certificate, good.chain, good.root)
            assert len(content) - cut <= 1 or name != names.key  # the last newline means nothing
    assert taken < 10


def test_what_changes_while_it_is_read_is_read_again(tmp_path: Path) -> None:
    folder = put(tmp_path / "ca", FILES)
    successor = an_issuer(ROOT, "successor")
    is_swapped = False

    class Swapping(type(folder)):  # type: ignore[misc] # the path of this system
        """A folder whose files are exchanged when all but the key were read."""

        def __truediv__(self, name: str) -> Path:
            nonlocal is_swapped
            if name == KEY and not is_swapped and sys._getframe(1).f_code.co_name == "_read_once":
                is_swapped = True
                put(folder, contents(successor, ROOT))
            return super().__truediv__(name)  # type: ignore[no-any-return] # as above

    assert read(Swapping(folder)).certificate == successor.certificate
    assert is_swapped

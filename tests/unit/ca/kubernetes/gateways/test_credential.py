"""What a secret gives to a gateway, and why it gives nothing."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from ca.kubernetes.gateways.checks import MOST_AUTHORITY_BYTES, MOST_CHAIN_BYTES, MOST_KEY_BYTES
from ca.kubernetes.gateways.credential import Credential, NotYet, authorities_of, certificate_of
from ca.kubernetes.gateways.lists import MOST_LIST_BYTES, MOST_LISTS
from citadel.errors import InvalidArgument, Reason
from tests.certificates import NOW, Signed, intermediate, key_usage, leaf, root, rsa_key, with_long_exponent
from tests.secrets_of_gateways import CA, chain_pem, crl, key_pem, served, tls

DAY = timedelta(days=1)
LEAF = served()
OTHER = served("other.example.org")
MIDDLE = intermediate(CA, "middle", uri=None, not_after=NOW + DAY)
UNDER = served(issuer=MIDDLE)
TWIN = root("gateways' CA", uri=None)  # of the same name, with another key
TWINS = [root("gateways' CA", uri=None) for _ in range(10)]
ALIAS = Signed(root("another name", uri=None).certificate, CA.key)
NO_SIGNER = root("signs lists alone", uri=None, usage=key_usage("crl_sign"))
COSTLY = root("costly", uri=None, key=with_long_exponent(rsa_key()))
LATER = NOW + DAY / 2
STAPLED = served(extra=((x509.TLSFeature([x509.TLSFeatureType.status_request]), False),))


class TestCertificates:
    @pytest.mark.parametrize(
        ("data", "chain"),
        [
            pytest.param(tls(LEAF), [LEAF], id="tls"),
            pytest.param({"cert": LEAF.pem, "key": key_pem(LEAF)}, [LEAF], id="generic"),
            pytest.param(
                {**tls(OTHER), "cert": LEAF.pem, "key": key_pem(LEAF)}, [LEAF], id="the generic form is first"
            ),
            pytest.param({**tls(LEAF), "cert": OTHER.pem, "key": b""}, [LEAF], id="half of the generic form is none"),
            pytest.param(tls(UNDER, MIDDLE), [UNDER, MIDDLE], id="with what issued it"),
            pytest.param(tls(UNDER, MIDDLE, CA), [UNDER, MIDDLE, CA], id="with the root"),
            pytest.param(tls(CA), [CA], id="self-signed, as openssl makes it"),
            pytest.param(tls(big := served(key=rsa_key())), [big], id="RSA"),
            pytest.param(tls(wide := served(key=ec.generate_private_key(ec.SECP384R1()))), [wide], id="P-384"),
            pytest.param(tls(widest := served(key=ec.generate_private_key(ec.SECP521R1()))), [widest], id="P-521"),
            pytest.param(tls(edwards := served(key=ed25519.Ed25519PrivateKey.generate())), [edwards], id="Ed25519"),
            pytest.param(tls(LEAF, **{"ca.crt": b"broken"}), [LEAF], id="what else is in it does not matter"),
        ],
    )
    def test_forms_that_are_taken(self, data: dict[str, bytes], chain: list[object]) -> None:
        found = certificate_of(data, NOW)
        assert found.certificate_chain == chain_pem(*chain)  # type: ignore[arg-type]
        assert found.private_key.startswith(b"-----BEGIN PRIVATE KEY-----")
        assert (found.trusted_ca, found.crl) == (b"", b"")

    def test_it_is_good_until_the_first_of_its_chain_ends(self) -> None:
        assert certificate_of(tls(UNDER, MIDDLE), NOW).ends == UNDER.certificate.not_valid_after_utc
        long = served(issuer=MIDDLE, not_after=NOW + 9 * DAY)
        assert certificate_of(tls(long, MIDDLE), NOW).ends == NOW + DAY

    @pytest.mark.parametrize("form", [PrivateFormat.TraditionalOpenSSL, PrivateFormat.PKCS8])
    @pytest.mark.parametrize("signed", [LEAF, served(key=rsa_key())], ids=["EC", "RSA"])
    def test_keys_of_every_form_go_on_in_one(self, signed: object, form: PrivateFormat) -> None:
        pem = signed.key.private_bytes(Encoding.PEM, form, NoEncryption())  # type: ignore[attr-defined]
        written = b"-----BEGIN EC PARAMETERS-----\nBggqhkjOPQMBBw==\n-----END EC PARAMETERS-----\n"
        data = tls(signed)  # type: ignore[arg-type]
        for given in (pem, written + pem if b"EC PRIVATE" in pem else pem):
            assert certificate_of({**data, "tls.key": given}, NOW) == certificate_of(data, NOW)

    def test_nothing_that_was_not_read_goes_on(self) -> None:
        noisy = b"a comment\n" + LEAF.pem + b"\n# " + key_pem(OTHER).replace(b"PRIVATE KEY", b"SOMETHING") + b"\n"
        assert certificate_of({**tls(LEAF), "tls.crt": noisy}, NOW).certificate_chain == LEAF.pem

    @pytest.mark.parametrize(
        ("data", "words"),
        [
            pytest.param(
                {}, "lacks cert and key or tls.crt and tls.key; of what gateways use it has nothing", id="empty"
            ),
            pytest.param({"tls.crt": LEAF.pem}, "gateways use it has tls.crt", id="without a key"),
            pytest.param({**tls(LEAF), "tls.crt": b"x"}, "tls.crt cannot be read", id="no PEM"),
            pytest.param(
                {**tls(LEAF), "tls.crt": key_pem(LEAF)}, "tls.crt cannot be read: the input is a private", id="a key"
            ),
            pytest.param({**tls(LEAF), "tls.crt": LEAF.pem[:-40]}, "tls.crt cannot be read", id="cut off"),
            pytest.param({**tls(LEAF), "tls.key": key_pem(OTHER)}, "tls.key does not fit", id="another key"),
            pytest.param(
                {**tls(LEAF), "tls.key": key_pem(served(key=rsa_key()))},
                "tls.key does not fit",
                id="a key of another kind",
            ),
            pytest.param(
                {**tls(LEAF), "tls.key": key_pem(LEAF, password=b"x")}, "tls.key is encrypted", id="encrypted"
            ),
            pytest.param({**tls(LEAF), "tls.key": b"x"}, "tls.key is not one whole private key", id="no key"),
            pytest.param(
                {**tls(LEAF), "tls.key": key_pem(LEAF)[:-60]}, "tls.key is not one whole private key", id="half a key"
            ),
            pytest.param(tls(UNDER, CA), "out of order: certificate 2 did not issue", id="the issuer is missing"),
            pytest.param(tls(UNDER, CA, MIDDLE), "out of order: certificate 2", id="out of order"),
            pytest.param(tls(LEAF, TWIN), "out of order: certificate 2", id="an issuer of the same name"),
            pytest.param(
                tls(served(issuer=LEAF, issuer_name=LEAF.certificate.subject), LEAF),
                "out of order",
                id="issued by a leaf",
            ),
            pytest.param(tls(served(issuer=NO_SIGNER), NO_SIGNER), "out of order", id="issued by what may not"),
            pytest.param({**tls(OTHER), "tls.crt": chain_pem(LEAF, OTHER)}, "out of order", id="two leaves"),
            pytest.param(tls(served(not_after=NOW)), "tls.crt has expired: it ended", id="expired"),
            pytest.param(
                tls(served(not_before=NOW + DAY, not_after=NOW + 2 * DAY)),
                "tls.crt is not valid before",
                id="in the future",
            ),
            pytest.param(
                tls(
                    served(issuer=(old := intermediate(CA, "old", uri=None, not_before=NOW - DAY, not_after=NOW))),
                    old,
                ),
                "tls.crt has a certificate 2 that has expired",
                id="an expired issuer",
            ),
            pytest.param(tls(served(key=rsa_key(1024))), "RSA key of 1024 bits", id="a small key"),
            pytest.param(tls(served(key=ed448.Ed448PrivateKey.generate())), "key of type Ed448", id="Ed448"),
            pytest.param(
                tls(served(key=ec.generate_private_key(ec.SECP256K1()))), "curve secp256k1", id="another curve"
            ),
            pytest.param(tls(STAPLED), "must be served with an OCSP response", id="must staple"),
            pytest.param(
                {**tls(LEAF), "tls.crt": LEAF.pem + b"#" * MOST_CHAIN_BYTES}, "and at most", id="a long chain"
            ),
            pytest.param(
                {**tls(LEAF), "tls.key": key_pem(LEAF) + b"#" * MOST_KEY_BYTES}, "a key has at most", id="a long key"
            ),
            pytest.param({**tls(CA), "tls.crt": CA.pem * 11}, "has 11 certificates", id="many"),
        ],
    )
    def test_what_is_refused_and_why(self, data: dict[str, bytes], words: str) -> None:
        assert words in refused(lambda: certificate_of(data, NOW))


class TestAuthorities:
    @pytest.mark.parametrize("keys", [("ca.crt", "ca.crl"), ("cacert", "crl")])
    def test_both_forms_with_and_without_lists(self, keys: tuple[str, str]) -> None:
        bare = authorities_of({keys[0]: CA.pem}, NOW)
        assert (bare.trusted_ca, bare.crl, bare.private_key) == (CA.pem, b"", b"")
        lists = crl(CA, LEAF) + crl(MIDDLE)
        full = authorities_of({keys[0]: chain_pem(CA, MIDDLE), keys[1]: lists}, NOW)
        assert (full.trusted_ca, full.crl) == (chain_pem(CA, MIDDLE), lists)

    def test_they_are_good_until_the_last_of_them_or_the_first_list_ends(self) -> None:
        assert authorities_of({"cacert": chain_pem(CA, MIDDLE)}, NOW).ends == CA.certificate.not_valid_after_utc
        listed = {"cacert": CA.pem, "crl": crl(CA, ends=NOW + DAY / 2)}
        assert authorities_of(listed, NOW).ends == NOW + DAY / 2

    def test_one_that_has_ended_takes_nothing_from_the_others(self) -> None:
        ended = root("ended", uri=None, not_before=NOW - DAY, not_after=NOW)
        assert authorities_of({"ca.crt": chain_pem(ended, CA)}, NOW).trusted_ca == chain_pem(ended, CA)

    @pytest.mark.parametrize(
        ("data", "words"),
        [
            pytest.param({}, "lacks cacert or ca.crt", id="empty"),
            pytest.param(tls(LEAF), "it has tls.crt, tls.key", id="none"),
            pytest.param({"ca.crt": b"x"}, "ca.crt cannot be read", id="no PEM"),
            pytest.param(
                {"ca.crt": chain_pem(CA, LEAF)},
                "ca.crt has a certificate 2 that is not one of an authority",
                id="a leaf",
            ),
            pytest.param(
                {"ca.crt": root("sealed", uri=None, usage=None, constraints=None).pem},
                "certificate 1 that is not one of an authority",
                id="no constraints",
            ),
            pytest.param(
                {"ca.crt": chain_pem(CA, NO_SIGNER)},
                "certificate 2 that is not one of an authority",
                id="what may not sign certificates",
            ),
            pytest.param(
                {"ca.crt": root(uri=None, not_before=NOW - DAY, not_after=NOW).pem}, "ca.crt has expired", id="expired"
            ),
            pytest.param({"ca.crt": CA.pem + b"#" * MOST_AUTHORITY_BYTES}, "and at most", id="large"),
            pytest.param({"cacert": CA.pem, "crl": b"x"}, "crl is not revocation lists in PEM", id="no list"),
            pytest.param(
                {"cacert": CA.pem, "crl": CA.pem}, "crl is not revocation lists in PEM", id="a certificate as a list"
            ),
            pytest.param(
                {"cacert": CA.pem, "crl": crl(CA) + crl(CA)[:-60]}, "crl is not revocation lists", id="half a list"
            ),
            pytest.param(
                {"cacert": CA.pem, "crl": crl(root("x"))}, "that none of the authorities signed", id="another's list"
            ),
            pytest.param(
                {"cacert": CA.pem, "crl": crl(TWIN)}, "that none of the authorities signed", id="a namesake's list"
            ),
            pytest.param(
                {"cacert": CA.pem, "crl": crl(ALIAS)},
                "that none of the authorities signed",
                id="a list by its key under another name",
            ),
            pytest.param({"cacert": CA.pem, "crl": crl(CA, ends=NOW)}, "crl has a list that ended", id="an old list"),
            pytest.param(
                {"cacert": CA.pem, "crl": crl(CA, begins=NOW + DAY / 2)},
                "a list that is not valid before",
                id="a list of later",
            ),
            pytest.param(
                {"cacert": CA.pem, "crl": crl(CA) + b"#" * MOST_LIST_BYTES}, "lists have at most", id="a large list"
            ),
            # A pattern takes minutes for this, and holds the interpreter's lock.
            pytest.param(
                {"cacert": CA.pem, "crl": b"-----BEGIN X509 CRL-----" * 21_000},
                "crl has 21000 lists, and at most 64 are taken",
                id="beginnings without an end",
            ),
            pytest.param({"cacert": CA.pem, "crl": crl(CA) * (MOST_LISTS + 1)}, "crl has 65 lists", id="many lists"),
            pytest.param(
                {"cacert": chain_pem(*TWINS, CA), "crl": crl(CA)},
                "that none of the authorities signed",
                id="behind many namesakes",
            ),
            pytest.param(
                {"cacert": COSTLY.pem, "crl": crl(COSTLY)},
                "that none of the authorities signed",
                id="a key that takes long, and that Envoy does not take",
            ),
        ],
    )
    def test_what_is_refused_and_why(self, data: dict[str, bytes], words: str) -> None:
        assert words in refused(lambda: authorities_of(data, NOW))

    def test_a_list_that_names_the_key_that_signed_it_is_found_behind_any_number_of_namesakes(self) -> None:
        listed = crl(CA, names_key=True)
        assert authorities_of({"cacert": chain_pem(*TWINS, CA), "crl": listed}, NOW).crl == listed

    def test_as_many_lists_as_are_taken(self) -> None:
        assert authorities_of({"cacert": CA.pem, "crl": crl(CA) * MOST_LISTS}, NOW).crl.count(b"BEGIN") == MOST_LISTS


@pytest.mark.parametrize(
    ("read", "data"),
    [
        pytest.param(certificate_of, tls(served(not_before=LATER, not_after=NOW + DAY)), id="certificate"),
        pytest.param(
            certificate_of,
            tls(served(issuer=(issuer := intermediate(CA, "later", uri=None, not_before=LATER))), issuer),
            id="issuer",
        ),
        pytest.param(
            authorities_of,
            {
                "cacert": chain_pem(
                    root("old", uri=None, not_before=NOW - DAY, not_after=NOW),
                    root("later", uri=None, not_before=LATER),
                    root("later still", uri=None, not_before=LATER + DAY),
                )
            },
            id="authorities",
        ),
        pytest.param(authorities_of, {"cacert": CA.pem, "crl": crl(CA, begins=LATER)}, id="list"),
    ],
)
def test_what_time_alone_makes_good_says_when(
    read: Callable[[dict[str, bytes], datetime], Credential], data: dict[str, bytes]
) -> None:
    fault = error_of(lambda: read(data, NOW))
    assert isinstance(fault, NotYet)
    assert fault.begins == LATER


def test_what_has_ended_is_not_made_good_by_time() -> None:
    fault = error_of(lambda: certificate_of(tls(served(not_after=NOW - DAY, not_before=NOW - 2 * DAY)), NOW))
    assert not isinstance(fault, NotYet)


def test_what_is_shown_of_one_holds_nothing_of_the_secret() -> None:
    shown = repr(certificate_of(tls(LEAF), NOW)) + repr(authorities_of({"ca.crt": CA.pem}, NOW))
    assert "BEGIN" not in shown
    assert "ends=" in shown


def test_a_refusal_repeats_nothing_of_a_key() -> None:
    secret = key_pem(LEAF).decode().splitlines()[1]
    for broken in (key_pem(LEAF)[:-30], key_pem(LEAF).replace(b"PRIVATE", b"PUBLIC")):
        error = error_of(lambda key=broken: certificate_of({**tls(LEAF), "tls.key": key}, NOW))  # type: ignore[misc]
        assert secret not in str(error)
        assert error.__cause__ is None


def error_of(read: Callable[[], Credential]) -> InvalidArgument:
    with pytest.raises(InvalidArgument) as caught:
        read()
    assert caught.value.reason is Reason.CREDENTIAL_INVALID
    return caught.value


def refused(read: Callable[[], Credential]) -> str:
    return error_of(read).message


def test_leaf_profile_is_no_matter() -> None:
    assert certificate_of(tls(leaf(CA, usage=None, extra=())), NOW).ends == NOW + timedelta(hours=1)

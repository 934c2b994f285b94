"""What an answer of Vault means, by who can mend it."""

from __future__ import annotations

import json
import ssl
from pathlib import Path

import pytest
import requests

from ca.vault.troubles import taken, trouble_of_error
from citadel.errors import Reason, Unavailable


def refusal(status: int, body: bytes, *, method: str = "POST", path: str = "pki/root/sign") -> Unavailable:
    with pytest.raises(Unavailable) as error:
        taken(status, body, method=method, path=path, secrets=["hvs.secret"])
    return error.value


def words(*errors: str) -> bytes:
    return json.dumps({"errors": list(errors)}).encode()


@pytest.mark.parametrize(
    ("status", "body", "reason", "said"),
    [
        (400, words("invalid ttl"), Reason.VAULT_REFUSED, "Vault refuses `pki/root/sign` (400): invalid ttl"),
        (
            403,
            words("1 error occurred:\n\t* permission denied\n\n"),
            Reason.VAULT_DENIED,
            "`update` on `pki/root/sign`",
        ),
        (404, words(), Reason.VAULT_NOT_FOUND, "there is nothing at `pki/root/sign` in Vault"),
        (404, words('no handler for route "pki/root/sign"'), Reason.VAULT_NOT_FOUND, "is its mount right?"),
        (405, words("unsupported operation"), Reason.VAULT_REFUSED, "unsupported operation"),
        (412, words("required index state not present"), Reason.VAULT_UNAVAILABLE, "(412)"),
        (429, words("rate limit quota exceeded"), Reason.VAULT_UNAVAILABLE, "rate limit quota exceeded"),
        (500, words("unable to find PKI issuer"), Reason.VAULT_REFUSED, "unable to find PKI issuer"),
        (500, words("local node not active but active cluster node not found"), Reason.VAULT_UNAVAILABLE, "not active"),
        (500, b"<html>", Reason.VAULT_UNAVAILABLE, "Vault does not serve now (500)"),
        (501, words("Vault is not initialized"), Reason.VAULT_UNAVAILABLE, "not initialized"),
        (502, b"<html>bad gateway</html>", Reason.VAULT_UNAVAILABLE, "Vault does not serve now (502)"),
        (503, words("Vault is sealed"), Reason.VAULT_UNAVAILABLE, "Vault is sealed"),
        (504, b"", Reason.VAULT_UNAVAILABLE, "(504)"),
        (200, b"<html>welcome</html>", Reason.VAULT_REFUSED, "is not Vault"),
        (403, b"<html>forbidden</html>", Reason.VAULT_REFUSED, "is not Vault"),
        (404, b"<html>not found</html>", Reason.VAULT_REFUSED, "is not Vault"),
        (404, b'{"errors": "text"}', Reason.VAULT_REFUSED, "is not Vault"),
        (400, b"Client sent an HTTP request to an HTTPS server.\n", Reason.VAULT_REFUSED, "Vault speaks TLS"),
        (302, b"", Reason.VAULT_REFUSED, "elsewhere"),
        (307, b"", Reason.VAULT_REFUSED, "elsewhere"),
    ],
)
def test_each_answer_has_its_reason(status: int, body: bytes, reason: Reason, said: str) -> None:
    error = refusal(status, body)
    assert error.reason is reason
    assert said in error.message
    assert "\n" not in error.message


@pytest.mark.parametrize(
    ("method", "capability"), [("GET", "read"), ("LIST", "list"), ("POST", "update"), ("DELETE", "delete")]
)
def test_what_the_policy_lacks_is_named(method: str, capability: str) -> None:
    assert (
        f"does not allow `{capability}` on `transit/keys`"
        in refusal(403, words("permission denied"), method=method, path="transit/keys").message
    )


@pytest.mark.parametrize(
    ("path", "is_said"), [("pki/issuers", True), ("auth/approle/login", True), ("sys/capabilities-self", False)]
)
def test_what_may_not_be_mounted_is_said_to_be_so(path: str, is_said: bool) -> None:
    said = refusal(403, words("permission denied"), path=path).message
    assert said.endswith(", or nothing is mounted there") is is_said


def test_vaults_words_are_cut_and_have_no_secret() -> None:
    error = refusal(400, words("x" * 5000))
    assert len(error.message) < 400
    assert "hvs.secret" not in refusal(400, words("bad token hvs.secret")).message


def test_what_is_good_is_taken_and_deleting_what_is_not_there_is_good() -> None:
    assert taken(200, b'{"data": {"a": 1}}', method="GET", path="x", secrets=[]) == {"data": {"a": 1}}
    assert taken(204, b"", method="POST", path="x", secrets=[]) == {}
    assert taken(404, words(), method="DELETE", path="x", secrets=[]) == {}
    assert refusal(404, words("no handler for route"), method="DELETE").reason is Reason.VAULT_NOT_FOUND


def unverified() -> ssl.SSLCertVerificationError:
    error = ssl.SSLCertVerificationError(1, "verify failed")
    error.verify_message = "certificate has expired"
    return error


@pytest.mark.parametrize(
    ("below", "error", "reason", "said"),
    [
        (unverified(), requests.exceptions.SSLError("x"), Reason.VAULT_UNTRUSTED, "certificate has expired"),
        (ssl.SSLError(1, "WRONG_VERSION"), requests.exceptions.SSLError("x"), Reason.VAULT_UNTRUSTED, "speak TLS"),
        (ssl.SSLEOFError(8, "EOF"), requests.exceptions.SSLError("x"), Reason.VAULT_UNAVAILABLE, "cannot be reached"),
        (ConnectionRefusedError(111, "refused"), requests.ConnectionError("x"), Reason.VAULT_UNAVAILABLE, "refused"),
        (None, requests.ReadTimeout("x"), Reason.VAULT_UNAVAILABLE, "did not answer in time"),
        (None, requests.TooManyRedirects("x"), Reason.VAULT_UNAVAILABLE, "from one to the other"),
        (None, requests.ConnectionError("token in here"), Reason.VAULT_UNAVAILABLE, "the connection was cut"),
    ],
)
def test_what_keeps_an_answer_from_coming(below: Exception | None, error: Exception, reason: Reason, said: str) -> None:
    error.__cause__ = below
    trouble = trouble_of_error(error, address="https://vault.test:8200", ca_file=Path("/ca.pem"))
    assert trouble.reason is reason
    assert said in trouble.message
    assert "token in here" not in trouble.message
    if reason is Reason.VAULT_UNTRUSTED:
        assert "https://vault.test:8200" in trouble.message
        assert trouble.fix


def test_what_does_not_verify_names_the_file_of_its_authority() -> None:
    for ca_file, words in ((Path("/ca.pem"), "the authority in /ca.pem"), (None, "the authorities of the system")):
        trouble = trouble_of_error(unverified(), address="https://vault.test:8200", ca_file=ca_file)
        assert words in trouble.message
        assert "vault.ca_file" in trouble.fix

"""What is built by a key that is elsewhere is what a key here would have built, and nothing else is ever signed."""

from __future__ import annotations

import copy
import threading
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import jwt
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding
from cryptography.hazmat.primitives.asymmetric.utils import Prehashed
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from ca.authority.certificates import build_root
from ca.issuance.worker import SigningWorker
from ca.keys.kinds import AuthorityKey, KeyKind
from ca.keys.signing import most_inline, sign_with
from ca.revocation.crl import build_crl
from ca.upstream.asking import issuer_request
from citadel import jws
from citadel.errors import Reason, Unavailable
from citadel.succession import Succession
from tests.remote_keys import LocalRemoteKey
from tests.unit.ca.values import A_TEST, NOW, a_key

YEAR = timedelta(days=365)
KEYS = {kind: a_key(kind) for kind in KeyKind}


@pytest.fixture(params=KeyKind, ids=str)
def key(request: pytest.FixtureRequest) -> AuthorityKey:
    return KEYS[request.param]


def root_of(key: AuthorityKey, serial: int = 7) -> x509.Certificate:
    return build_root(trust_domain=A_TEST, key=key, now=NOW, lifetime=YEAR, backdate=timedelta(0), serial=serial)


async def test_a_certificate_is_what_a_key_here_would_have_made(key: AuthorityKey) -> None:
    made, expected = await sign_with(LocalRemoteKey(key), root_of), root_of(key)
    made.verify_directly_issued_by(made)
    assert made.tbs_certificate_bytes == expected.tbs_certificate_bytes
    assert made.signature_algorithm_oid == expected.signature_algorithm_oid


async def test_so_are_lists_requests_tokens_and_the_words_of_roots(key: AuthorityKey) -> None:
    remote, root = LocalRemoteKey(key), root_of(key)
    crl = await sign_with(remote, lambda own: build_crl(issuer=root, key=own, number=1, revoked=()), is_large=True)
    assert crl.is_signature_valid(key.public_key())
    csr = x509.load_der_x509_csr(await issuer_request(remote, A_TEST))
    assert csr.is_signature_valid
    token = await sign_with(remote, lambda own: jws.sign({"sub": "x"}, key=own, key_id="k"))
    algorithm = jws.algorithm_for(key.public_key())
    assert jwt.decode(token, key.public_key(), algorithms=[algorithm]) == {"sub": "x"}
    word = await sign_with(
        remote,
        lambda own: Succession.signed(trust_domain=A_TEST, root=root, key=own, heirs=[root], until=NOW + YEAR),
    )
    assert word.is_word_of(root)
    assert [len(messages) for messages in remote.elsewhere.calls] == [1, 1, 1, 1]


async def test_all_that_is_asked_for_is_signed_in_one_call_and_each_once(key: AuthorityKey) -> None:
    remote = LocalRemoteKey(key)

    def build(own: AuthorityKey) -> list[x509.Certificate]:
        return [root_of(own, serial) for serial in (3, 1, 2, 1)]

    made = await sign_with(remote, build)
    for each in made:
        each.verify_directly_issued_by(each)
    assert [each.serial_number for each in made] == [3, 1, 2, 1]
    (messages,) = remote.elsewhere.calls
    assert list(messages) == [each.tbs_certificate_bytes for each in made[:3]]


async def test_where_nothing_is_to_be_signed_nobody_is_asked() -> None:
    remote = LocalRemoteKey(KEYS[KeyKind.EC_P256])
    assert await sign_with(remote, lambda own: own.key_size) == 256
    assert remote.elsewhere.calls == []


async def test_what_was_not_asked_for_the_first_time_is_not_signed(key: AuthorityKey) -> None:
    serials = iter((1, 2))
    with pytest.raises(AssertionError, match="did not ask for"):
        await sign_with(LocalRemoteKey(key), lambda own: root_of(own, next(serials)))


async def test_whoever_answers_with_too_few_signatures_is_not_believed(key: AuthorityKey) -> None:
    class Forgetful(LocalRemoteKey):
        async def sign(self, messages: Any) -> Any:
            return (await super().sign(messages))[1:]

    with pytest.raises(ValueError, match="shorter"):
        await sign_with(Forgetful(key), root_of)


async def test_where_it_is_away_nothing_is_built(key: AuthorityKey) -> None:
    remote, built = LocalRemoteKey(key), []
    remote.elsewhere.failure = Unavailable(Reason.VAULT_UNAVAILABLE, "sealed")
    with pytest.raises(Unavailable) as refused:
        await sign_with(remote, lambda own: built.append(root_of(own)))
    assert refused.value.reason is Reason.VAULT_UNAVAILABLE
    assert len(built) == 1, "the first pass, which is thrown away"


def _ecdsa(algorithm: Any) -> Callable[[Any], bytes]:
    return lambda own: own.sign(b"m", algorithm)


def _rsa(pad: Any, algorithm: Any) -> Callable[[Any], bytes]:
    return lambda own: own.sign(b"m", pad, algorithm)


OTHERWISE = [
    (KeyKind.EC_P256, _ecdsa(ec.ECDSA(hashes.SHA384()))),
    (KeyKind.EC_P256, _ecdsa(ec.ECDSA(Prehashed(hashes.SHA256())))),
    (KeyKind.EC_P256, _ecdsa(ec.ECDSA(hashes.SHA256(), deterministic_signing=True))),
    (KeyKind.EC_P384, _ecdsa(ec.ECDSA(hashes.SHA256()))),
    (KeyKind.RSA_2048, _rsa(padding.PKCS1v15(), hashes.SHA384())),
    (KeyKind.RSA_2048, _rsa(padding.PKCS1v15(), Prehashed(hashes.SHA256()))),
    (KeyKind.RSA_4096, _rsa(padding.PSS(padding.MGF1(hashes.SHA256()), 32), hashes.SHA256())),
]


@pytest.mark.parametrize(("kind", "build"), OTHERWISE)
async def test_it_is_not_asked_to_sign_in_another_way_than_it_does(kind: KeyKind, build: Any) -> None:
    remote = LocalRemoteKey(KEYS[kind])
    with pytest.raises(TypeError, match="no other way"):
        await sign_with(remote, build)
    assert remote.elsewhere.calls == []


ELSE: list[Callable[[Any], object]] = [
    lambda own: own.private_numbers(),
    lambda own: own.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption()),
    copy.copy,
    copy.deepcopy,
]


@pytest.mark.invariant(1)
@pytest.mark.parametrize("do", ELSE)
async def test_it_does_nothing_but_sign(key: AuthorityKey, do: Callable[[Any], object]) -> None:
    with pytest.raises(TypeError, match="nothing else"):
        await sign_with(LocalRemoteKey(key), do)


async def test_it_neither_decrypts_nor_agrees_on_a_key() -> None:
    for kind, do in {
        KeyKind.RSA_2048: lambda own: own.decrypt(b"", padding.PKCS1v15()),
        KeyKind.EC_P256: lambda own: own.exchange(ec.ECDH(), own.public_key()),
    }.items():
        with pytest.raises(TypeError, match="nothing else"):
            await sign_with(LocalRemoteKey(KEYS[kind]), do)


SLOW = [
    (KeyKind.EC_P256, False, True),
    (KeyKind.EC_P384, False, True),
    (KeyKind.RSA_2048, False, True),
    (KeyKind.RSA_4096, False, False),
    (KeyKind.EC_P256, True, False),
]


@pytest.mark.parametrize(("kind", "is_large", "is_inline"), SLOW)
async def test_a_key_that_is_here_is_used_once_and_off_the_loop_where_that_takes_long(
    kind: KeyKind, *, is_large: bool, is_inline: bool
) -> None:
    used: list[tuple[AuthorityKey, int]] = []
    await sign_with(KEYS[kind], lambda own: used.append((own, threading.get_ident())), is_large=is_large)
    ((own, thread),) = used
    assert own is KEYS[kind]
    assert (thread == threading.get_ident()) is is_inline


def test_how_much_is_signed_on_the_loop_depends_on_the_key() -> None:
    assert [most_inline(KEYS[kind]) for kind in KeyKind] == [8, 1, 1, 0]
    assert {most_inline(LocalRemoteKey(each)) for each in KEYS.values()} == {8}


@pytest.mark.parametrize("kind", KeyKind)
@pytest.mark.parametrize("is_remote", [False, True])
async def test_batches_above_that_are_signed_on_another_thread(kind: KeyKind, *, is_remote: bool) -> None:
    key = LocalRemoteKey(KEYS[kind]) if is_remote else KEYS[kind]
    worker, threads = SigningWorker("test"), set[int]()

    def build(own: AuthorityKey, serial: int) -> int:
        threads.add(threading.get_ident())
        return root_of(own, serial).serial_number

    most = most_inline(key)
    for number in (most, most + 1):
        threads.clear()
        assert await worker.sign(key, build, range(1, number + 1), inline=most) == list(range(1, number + 1))
        assert threads == set() or (threads == {threading.get_ident()}) is (number == most)
    worker.close()

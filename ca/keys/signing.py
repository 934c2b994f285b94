"""Signing by a key wherever it is. `docs/decisions/0053` says why a key that is elsewhere takes two passes."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, Final, NoReturn, TypeVar, cast

from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from cryptography.hazmat.primitives.hashes import HashAlgorithm

from ca.keys.kinds import AuthorityKey, AuthorityPublicKey, hash_for
from ca.keys.remote import RemoteKey, SigningKey

_Made = TypeVar("_Made")

_MOST_INLINE: Final = 8  # so many are done before a thread could take over
_FAST_BITS: Final = 256  # of a curve
_MOST_INLINE_SLOW: Final = 1  # P-384 and RSA-2048 take ten times as long
_SLOWEST_BITS: Final = 3072  # of an RSA key: from here on even one takes milliseconds
_NO_SIGNATURE: Final = encode_dss_signature(1, 1)  # in the right form, since some encoders read what they are given


def most_inline(key: SigningKey) -> int:
    """How many signatures by this key can be made, with all around them, on the loop; more hold up every other call."""
    public_key = key.public_key()
    is_fast = isinstance(public_key, ec.EllipticCurvePublicKey) and public_key.key_size <= _FAST_BITS
    if is_fast or not isinstance(key, AuthorityKey):
        return _MOST_INLINE
    return 0 if public_key.key_size >= _SLOWEST_BITS else _MOST_INLINE_SLOW


async def sign_with(key: SigningKey, build: Callable[[AuthorityKey], _Made], *, is_large: bool = False) -> _Made:
    """What `build` makes with this key; off the loop where it `is_large`, or the key is too slow.

    `build` is called twice where the key is elsewhere, and must not make anything else the second time. Raises as
    `build`, and as `RemoteKey.sign`.
    """
    is_apart = is_large or not most_inline(key)

    async def run(by: AuthorityKey) -> _Made:
        return await asyncio.to_thread(build, by) if is_apart else build(by)

    return await run(key) if isinstance(key, AuthorityKey) else await in_two_passes(key, run)


async def in_two_passes(key: RemoteKey, build: Callable[[AuthorityKey], Awaitable[_Made]]) -> _Made:
    """The same by a key that is elsewhere. All that `build` asks for is signed in one call."""
    public_key = key.public_key()
    wanted: dict[bytes, bytes] = {}  # in the order in which they were asked for
    await build(_stand_in(public_key, lambda message: wanted.setdefault(message, _NO_SIGNATURE)))
    if wanted:
        wanted = dict(zip(wanted, await key.sign(list(wanted)), strict=True))
    return await build(_stand_in(public_key, lambda message: _found(wanted, message)))


def _found(signatures: dict[bytes, bytes], message: bytes) -> bytes:
    if message not in signatures:  # a signature of anything else would be a wrong one
        raise AssertionError("the second pass asks for what the first did not ask for")
    return signatures[message]


def _stand_in(public_key: AuthorityPublicKey, sign: Callable[[bytes], bytes]) -> AuthorityKey:
    """What builders take for a private key: it says what its public key says, and `sign` signs."""
    # What abstract bases ask for beside it comes from `_NothingElse`, unseen by the type checker.
    if isinstance(public_key, ec.EllipticCurvePublicKey):
        return cast("AuthorityKey", _EllipticStandIn(public_key, sign))
    return cast("AuthorityKey", _RsaStandIn(public_key, sign))


class _NothingElse:
    """All that a private key can do beside signing. A stand-in can do none of it."""

    def _refuse(self, *_: Any, **__: Any) -> NoReturn:
        raise TypeError("a key that is elsewhere signs, and does nothing else")

    exchange = decrypt = private_numbers = private_bytes = __copy__ = __deepcopy__ = _refuse


class _EllipticStandIn(_NothingElse, ec.EllipticCurvePrivateKey):
    def __init__(self, public_key: ec.EllipticCurvePublicKey, sign: Callable[[bytes], bytes]) -> None:
        self._public_key = public_key
        self._sign = sign

    @property
    def curve(self) -> ec.EllipticCurve:
        return self._public_key.curve

    @property
    def key_size(self) -> int:
        return self._public_key.key_size

    def public_key(self) -> ec.EllipticCurvePublicKey:
        return self._public_key

    def sign(self, data: Any, signature_algorithm: ec.EllipticCurveSignatureAlgorithm) -> bytes:
        is_plain = isinstance(signature_algorithm, ec.ECDSA) and not signature_algorithm.deterministic_signing
        _check(self._public_key, signature_algorithm.algorithm, is_plain=is_plain)
        return self._sign(bytes(data))


class _RsaStandIn(_NothingElse, rsa.RSAPrivateKey):
    def __init__(self, public_key: rsa.RSAPublicKey, sign: Callable[[bytes], bytes]) -> None:
        self._public_key = public_key
        self._sign = sign

    @property
    def key_size(self) -> int:
        return self._public_key.key_size

    def public_key(self) -> rsa.RSAPublicKey:
        return self._public_key

    def sign(self, data: Any, padding_: Any, algorithm: Any) -> bytes:
        _check(self._public_key, algorithm, is_plain=isinstance(padding_, padding.PKCS1v15))
        return self._sign(bytes(data))


def _check(public_key: AuthorityPublicKey, algorithm: Any, *, is_plain: bool) -> None:
    """Whoever signs elsewhere hashes and pads in one way alone: what a builder says otherwise would be a lie."""
    expected = hash_for(public_key)
    if not is_plain or not isinstance(algorithm, HashAlgorithm) or algorithm.name != expected.name:
        raise TypeError(f"a key that is elsewhere signs by {expected.name}, and pads by PKCS #1 v1.5, and no other way")

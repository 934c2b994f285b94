"""A private key in Transit, as those use it who sign."""

from __future__ import annotations

import asyncio
import base64
import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Final

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa

from ca.keys.kinds import AuthorityPublicKey, hash_for
from ca.keys.sealing import KeyPurpose
from ca.keys.transit.facts import VERSION, KeyFacts, same_key, type_of
from ca.keys.transit.gathering import Gathering, Outcome
from ca.vault.ports import Vault
from citadel.errors import CitadelError, Reason, Unavailable
from citadel.printable import printable

_MOST_AT_ONCE: Final = 500
# What one signature takes there, measured. A call is kept to a quarter of the time that it may take.
_SECONDS_EACH: Final[Mapping[str, float]] = {
    "ecdsa-p256": 0.00005,
    "ecdsa-p384": 0.00025,
    "rsa-2048": 0.0012,
    "rsa-3072": 0.003,
    "rsa-4096": 0.006,
}
_PREFIX: Final = f"vault:v{VERSION}:"
_ANOTHER: Final[Mapping[KeyPurpose | None, str]] = {
    KeyPurpose.ROOT: "citadel-cli rotate root",
    KeyPurpose.ISSUER: "citadel-cli rotate issuer, where the server did not do so by itself",
    KeyPurpose.JWT: "citadel-cli rotate jwt, where the server did not do so by itself",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class TransitPaths:
    """Where in Vault a key is described, and where it signs; and what it is for."""

    key: str
    sign: str
    purpose: KeyPurpose


class TransitKey:
    """Fulfils `ca.keys.remote.RemoteKey`.

    What comes back is verified before it is handed out: whoever answers for Vault brings no wrong certificate about.
    """

    def __init__(
        self,
        paths: TransitPaths,
        public_key: AuthorityPublicKey,
        *,
        vault: Vault,
        timeout: timedelta,
        on_outcome: Callable[[CitadelError | None], None],
    ) -> None:
        """`timeout` is how long Vault may take to answer one call; `on_outcome` is told of each how it ended."""
        self._paths = paths
        self._public_key = public_key
        self._vault = vault
        fit = int(timeout.total_seconds() / 4 / _SECONDS_EACH[type_of(public_key)])
        self._gathering = Gathering(self._signed, limit=min(max(fit, 1), _MOST_AT_ONCE))
        self._on_outcome = on_outcome

    def __repr__(self) -> str:
        return f"TransitKey({self._paths.key})"

    def public_key(self) -> AuthorityPublicKey:
        return self._public_key

    async def sign(self, messages: Sequence[bytes]) -> Sequence[bytes]:
        return await self._gathering.sign(messages)

    async def _signed(self, messages: Sequence[bytes]) -> Sequence[Outcome]:
        try:
            answer = await self._vault.write(self._paths.sign, self._request(messages))
            outcomes = await asyncio.to_thread(self._verified, messages, answer.data)
        except Unavailable as error:
            cause = await self._cause(error)
            self._on_outcome(cause)
            raise cause from (None if cause is error else error)
        wrong = next((each for each in outcomes if isinstance(each, CitadelError)), None)
        if wrong is not None:
            wrong = await self._cause(wrong)
        self._on_outcome(wrong)
        return [wrong if wrong is not None and isinstance(each, CitadelError) else each for each in outcomes]

    def _request(self, messages: Sequence[bytes]) -> Mapping[str, Any]:
        used = hash_for(self._public_key)
        request: dict[str, Any] = {
            "batch_input": [
                {"input": base64.b64encode(hashlib.new(used.name, message).digest()).decode()} for message in messages
            ],
            "prehashed": True,
            "hash_algorithm": f"sha2-{used.digest_size * 8}",
            "key_version": VERSION,
        }
        if isinstance(self._public_key, rsa.RSAPublicKey):
            return request | {"signature_algorithm": "pkcs1v15"}
        return request | {"marshaling_algorithm": "asn1"}

    def _verified(self, messages: Sequence[bytes], data: Mapping[str, Any]) -> Sequence[Outcome]:
        """Blocks for as long as it takes to verify them."""
        results = data.get("batch_results")
        if not isinstance(results, list) or len(results) != len(messages):
            raise Unavailable(Reason.VAULT_REFUSED, "Vault did not answer for each of the signatures")
        return [self._outcome(message, result) for message, result in zip(messages, results, strict=True)]

    def _outcome(self, message: bytes, result: Any) -> Outcome:
        error = result.get("error") if isinstance(result, dict) else "no result"
        if error:
            return Unavailable(Reason.VAULT_REFUSED, f"Vault refuses to sign: {printable(str(error), 200)}")
        try:
            text = str(result["signature"])
            signature = base64.b64decode(text.removeprefix(_PREFIX), validate=True)
            _verify(self._public_key, signature, message)
        except (KeyError, ValueError, InvalidSignature):
            return Unavailable(Reason.VAULT_REFUSED, f"what Vault answered is no signature by {self._paths.key}")
        return signature

    async def _cause(self, error: CitadelError) -> CitadelError:
        """What is really wrong, where Vault says no: it says as much when a key is gone as when it dislikes a call."""
        if error.reason not in (Reason.VAULT_REFUSED, Reason.VAULT_NOT_FOUND):
            return error
        try:
            facts = KeyFacts.parse((await self._vault.read(self._paths.key)).data)
        except CitadelError as unread:
            if unread.reason is not Reason.VAULT_NOT_FOUND or error.reason is Reason.VAULT_NOT_FOUND:
                return error  # Vault went away meanwhile, or there is no such mount
            return self._is_lost("is no longer in Vault")
        if facts.public_key is None:
            return self._is_lost(f"may no longer be used in its version {VERSION}")
        if not same_key(facts.public_key, self._public_key):
            return self._is_lost("is another one in Vault now")
        return error

    def _is_lost(self, how: str) -> CitadelError:
        return key_lost(self._paths.key, how, self._paths.purpose)


def key_lost(path: str, how: str, purpose: KeyPurpose | None = None) -> Unavailable:
    """The error of a key that is not in Vault as it must be."""
    another = f"; or take another one: {_ANOTHER[purpose]}" if purpose in _ANOTHER else ""
    return Unavailable(
        Reason.VAULT_KEY_LOST,
        f"the key {path} {how}",
        fix=f"restore it from a backup of Vault, or undo what keeps its first version from being used{another}",
    )


def _verify(key: AuthorityPublicKey, signature: bytes, message: bytes) -> None:
    if isinstance(key, rsa.RSAPublicKey):
        key.verify(signature, message, padding.PKCS1v15(), hash_for(key))
    else:
        key.verify(signature, message, ec.ECDSA(hash_for(key)))

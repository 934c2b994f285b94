"""Wrapping a private key for Transit to import, so that nothing between here and there sees it."""

from __future__ import annotations

import base64
import os
from typing import Final

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.hazmat.primitives.keywrap import aes_key_wrap_with_padding
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_public_key,
)

from ca.keys.kinds import AuthorityKey
from citadel.errors import Reason, Unavailable

_AES_BYTES: Final = 32


def wrapped_for(wrapping_key: str, key: AuthorityKey) -> str:
    """`key` as `transit/keys/NAME/import` takes it, under the public key (PEM) of `transit/wrapping_key`.

    Raises `Unavailable` (`vault_refused`) where that is not an RSA key.
    """
    try:
        receiver = load_pem_public_key(wrapping_key.encode())
    except ValueError as error:
        raise Unavailable(Reason.VAULT_REFUSED, "Vault's wrapping key cannot be read") from error
    if not isinstance(receiver, rsa.RSAPublicKey):
        raise Unavailable(Reason.VAULT_REFUSED, "Vault's wrapping key is not an RSA key")
    once = os.urandom(_AES_BYTES)
    oaep = padding.OAEP(mgf=padding.MGF1(hashes.SHA256()), algorithm=hashes.SHA256(), label=None)
    plain = key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())
    return base64.b64encode(receiver.encrypt(once, oaep) + aes_key_wrap_with_padding(once, plain)).decode()

"""The two documents by which strangers check JWT-SVIDs (pure).

Source: OpenID Connect Discovery 1.0 sections 3 and 4, RFC 7517; why each member is as it is, decision 35.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Final
from urllib.parse import urlsplit

from citadel.jwk import JwtKey, jwk_from_key
from citadel.jws import algorithm_for

_DISCOVERY: Final = "/.well-known/openid-configuration"
_KEYS: Final = "/keys"


def discovery_path(issuer: str) -> str:
    """Where the discovery document of `issuer` lies on its host."""
    return urlsplit(issuer).path + _DISCOVERY


def keys_path(issuer: str) -> str:
    """Where the keys of `issuer` lie on its host."""
    return urlsplit(issuer).path + _KEYS


def discovery_document(issuer: str, keys: Mapping[str, JwtKey]) -> bytes:
    """Who `issuer` is, and what its tokens are signed by."""
    return _dump(
        {
            "issuer": issuer,
            "jwks_uri": issuer + _KEYS,
            # The standard demands one, as a URL. Nobody signs in here: there is nothing at this one.
            "authorization_endpoint": f"{issuer}/authorize",
            "response_types_supported": ["id_token"],
            "subject_types_supported": ["public"],
            "id_token_signing_alg_values_supported": sorted({algorithm_for(key) for key in keys.values()}),
            "claims_supported": ["aud", "exp", "iat", "iss", "sub"],
        }
    )


def key_set(keys: Mapping[str, JwtKey]) -> bytes:
    """The public halves of these keys, by key id.

    `use` is `sig` and not the `jwt-svid` of SPIFFE bundles: RFC 7517 knows `sig` and `enc`, and programs that know no
    SPIFFE pass over any other.
    """
    jwks = [{"use": "sig", "kid": kid, "alg": algorithm_for(key), **jwk_from_key(key)} for kid, key in keys.items()]
    return _dump({"keys": jwks})


def _dump(document: Mapping[str, object]) -> bytes:
    return json.dumps(document, indent=2).encode("ascii")

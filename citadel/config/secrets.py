"""Secrets that were written where none belongs: recognised, so that no message repeats them (invariant 10)."""

from __future__ import annotations

import re
from typing import Final

_VALUES: Final = (
    re.compile(r"citadel://|token=", re.IGNORECASE),  # a join string, or a part of one
    re.compile(r"(?<![A-Za-z0-9+/])[A-Za-z0-9+/]{43}="),  # 32 bytes in base64, as a key-encryption key has
    re.compile(r"://[^/@]*:[^@]*@"),  # a URL with a password
    re.compile(r"-----BEGIN"),  # PEM
)
_NAMES: Final = (
    *("kek", "secret", "token", "passw", "join", "private", "credential"),
    *("url", "uri", "store", "database", "dsn"),  # such values can hold a password
)


def looks_secret(value: str) -> bool:
    """Whether a value has the form of a join string, a key or a URL with a password."""
    return any(form.search(value) for form in _VALUES)


def names_secret(key: str) -> bool:
    """Whether a key that is not known may have been meant for a secret."""
    return any(word in key.lower() for word in _NAMES)

"""Where the key-encryption key comes from."""

from __future__ import annotations

from collections.abc import Mapping

from ca.keys.sealing import decode_kek
from ca.settings import KeySettings
from citadel.config.files import read_secret_file
from citadel.errors import InvalidArgument, Reason


def read_kek(settings: KeySettings, environment: Mapping[str, str]) -> bytes:
    """The key-encryption key. Raises `InvalidArgument`: `file_unsafe`, `config_invalid` or `key_unsealable`."""
    if settings.kek_file is not None:
        return decode_kek(read_secret_file(settings.kek_file))
    name = settings.kek_env or ""
    value = environment.get(name)
    if not value:
        raise InvalidArgument(
            Reason.CONFIG_INVALID,
            f"the environment variable {name!r}, which should hold the key-encryption key, is not set",
            fix="set it, or name a file with keys.kek_file",
        )
    return decode_kek(value.encode())

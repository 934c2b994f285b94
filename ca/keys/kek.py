"""Where the key-encryption key comes from."""

from __future__ import annotations

from collections.abc import Mapping

from ca.keys.sealing import KekSealer, decode_kek
from ca.keys.settings import KeySettings
from citadel.config.files import read_secret_file
from citadel.errors import InvalidArgument, Reason


def read_kek(settings: KeySettings, environment: Mapping[str, str]) -> bytes:
    """The key-encryption key.

    Raises `InvalidArgument` (`file_unsafe`, `config_invalid` or `key_unsealable`) that names the setting.
    """
    setting = "keys.kek_env" if settings.kek_file is None else "keys.kek_file"
    try:
        kek = decode_kek(_text(settings, environment))
        KekSealer(kek)  # refuses a key of another length
    except InvalidArgument as error:
        raise InvalidArgument(error.reason, f"{setting}: {error.message}", fix=error.fix) from error
    return kek


def _text(settings: KeySettings, environment: Mapping[str, str]) -> bytes:
    if settings.kek_file is not None:
        return read_secret_file(settings.kek_file)
    name = settings.kek_env or ""
    value = environment.get(name)
    if not value:
        raise InvalidArgument(
            Reason.CONFIG_INVALID,
            f"the environment variable {name!r}, which should hold the key-encryption key, is not set",
            fix="set it, or name a file with keys.kek_file",
        )
    return value.encode()

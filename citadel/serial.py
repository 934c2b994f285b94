"""Serial numbers."""

from __future__ import annotations

import secrets


def new_serial() -> int:
    """A positive random serial of 128 bits."""
    return int.from_bytes(secrets.token_bytes(16), "big") or new_serial()


def serial_hex(serial: int) -> str:
    """Lowercase hex of whole bytes, the form that Envoy, the ledger and `svid inspect` all print."""
    text = f"{serial:x}"
    return text if len(text) % 2 == 0 else "0" + text

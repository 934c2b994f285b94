"""How strangers are spoken to: Mozilla's "intermediate" profile of TLS, no client certificates (FED-04, FED-12)."""

from __future__ import annotations

import os
import ssl
from typing import Final

# Of TLS 1.2; those of 1.3 are all good. https://wiki.mozilla.org/Security/Server_Side_TLS, version 5.7
_CIPHERS: Final = (
    "ECDHE-ECDSA-AES128-GCM-SHA256:ECDHE-RSA-AES128-GCM-SHA256:"
    "ECDHE-ECDSA-AES256-GCM-SHA384:ECDHE-RSA-AES256-GCM-SHA384:"
    "ECDHE-ECDSA-CHACHA20-POLY1305:ECDHE-RSA-CHACHA20-POLY1305"
)


def server_context(chain: bytes, key: bytes) -> ssl.SSLContext:
    """Shows this chain, in PEM. Raises `ValueError` or `OSError` where the two do not go together or are none."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers(_CIPHERS)
    context.options |= ssl.OP_NO_RENEGOTIATION
    context.set_alpn_protocols(["http/1.1"])
    # The standard library reads files alone, and the ones that were checked may have been replaced since. This one is
    # in memory and has no name.
    descriptor = os.memfd_create("certificate", os.MFD_CLOEXEC)
    with os.fdopen(descriptor, "wb") as file:
        file.write(chain + b"\n" + key)
        file.flush()
        # Without a password it would ask for one on the terminal.
        context.load_cert_chain(f"/proc/self/fd/{descriptor}", password=b"")
    return context

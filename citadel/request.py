"""An HTTP request as a proxy describes it before it passes it on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from citadel.spiffe import SpiffeId


@dataclass(frozen=True, slots=True, kw_only=True)
class HttpRequest:
    """What rules are asked about, as it came: nothing is decoded or normalised here.

    `path` holds the query too; the names of `headers` are lowercase, and the values of one that came twice are joined
    by commas. `peer` is who proved itself in the TLS handshake, where somebody did.
    """

    method: str
    host: str
    path: str
    headers: Mapping[str, str] = field(default_factory=dict)
    peer: SpiffeId | None = None

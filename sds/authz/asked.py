"""What a proxy asks about, out of its `CheckRequest`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from citadel.errors import PermissionDenied, Reason
from citadel.request import HttpRequest
from citadel.spiffe import SpiffeId


class Headers(Mapping[str, str]):
    """The headers as they lie in the message: few are ever looked at, and to copy all took longer than to judge them.

    The message's own map would make up what it is asked for and does not have.
    """

    __slots__ = ("_map",)

    def __init__(self, headers: Any) -> None:
        self._map = headers

    def __getitem__(self, name: str) -> str:
        if name not in self._map:
            raise KeyError(name)
        return str(self._map[name])

    def __iter__(self) -> Iterator[str]:
        return iter(self._map)

    def __len__(self) -> int:
        return len(self._map)


def request_of(check: Any, peer: SpiffeId | None) -> HttpRequest:
    """The request. Raises `PermissionDenied` (`request_malformed`) where the proxy asks about something else."""
    http = check.attributes.request.http
    if not http.method:
        raise PermissionDenied(Reason.REQUEST_MALFORMED, "the proxy does not ask about an HTTP request")
    return HttpRequest(method=http.method, host=http.host, path=http.path, headers=Headers(http.headers), peer=peer)

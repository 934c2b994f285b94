"""Which names a stream asks for, within bounds."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final

from sds.serve.resource import Resource
from sds.settings import EVERYTHING, MAX_NAME_BYTES

DEFAULT_MAX_NAMES: Final = 128  # a proxy asks for one name on each stream
MAX_BYTES: Final = 32 * 1024  # of all names together; some hundred of an ordinary length


class Subscription:
    """The names of one stream, in the order in which they were asked for, and whether it wants everything.

    Names beyond `max_names`, beyond `MAX_BYTES` in all or longer than `MAX_NAME_BYTES` are left out and counted.
    """

    __slots__ = ("_bytes", "_max_names", "_names", "ignored", "wants_all")

    def __init__(self, *, max_names: int) -> None:
        self.wants_all = False
        self.ignored = 0
        self._max_names = max_names
        self._names: dict[str, None] = {}
        self._bytes = 0

    @property
    def names(self) -> Iterable[str]:
        """What was asked for by name."""
        return self._names.keys()

    def wanted(self, available: Mapping[str, Resource]) -> Iterable[str]:
        """The names to answer now: those that were asked for, and with everything also all that is available."""
        return dict.fromkeys((*self._names, *sorted(available))) if self.wants_all else self._names.keys()

    def add(self, names: Iterable[str]) -> list[str]:
        """Ask for `names` as well; those that are sound and within bounds, also where they were asked for before."""
        taken = []
        for name in dict.fromkeys(names):
            if name == EVERYTHING:
                self.wants_all = True
            elif self._takes(name):
                taken.append(name)
            else:
                self.ignored += 1
        return taken

    def remove(self, names: Iterable[str]) -> list[str]:
        """Ask for `names` no longer; those that had been asked for."""
        given_up = []
        for name in names:
            if name == EVERYTHING:
                self.wants_all = False
            elif name in self._names:
                del self._names[name]
                self._bytes -= len(name.encode())
                given_up.append(name)
        return given_up

    def _takes(self, name: str) -> bool:
        if name in self._names:
            return True
        size = len(name.encode())
        if size > MAX_NAME_BYTES or len(self._names) >= self._max_names or self._bytes + size > MAX_BYTES:
            return False
        self._names[name] = None
        self._bytes += size
        return True

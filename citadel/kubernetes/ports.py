"""What the rooms that use Kubernetes need of it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Final, Protocol, TypeAlias

from citadel.errors import Reason, Unavailable

FIELD_MANAGER: Final = "citadel"  # who writes, as the objects themselves say it

# An object as the API server writes it in JSON. Only what a room parses at its border goes further.
KubeObject: TypeAlias = Mapping[str, Any]


# What is wanted of an object of a list, made before the next page is read: all of them whole take much memory.
Each: TypeAlias = Callable[[KubeObject], Any]


def as_it_is(found: KubeObject) -> KubeObject:
    """The whole object."""
    return found


# What is wrong with all calls, and not with one of them; the next one that is answered shows that it is over.
OF_ALL: Final = frozenset({Reason.KUBERNETES_UNAVAILABLE, Reason.KUBERNETES_UNTRUSTED, Reason.KUBERNETES_LOGIN_REFUSED})


class ApiUnavailable(Unavailable):
    """The API server is not there, too slow, or too busy; `retry_after` is what it asked for."""

    def __init__(self, message: str, *, retry_after: timedelta | None = None) -> None:
        super().__init__(Reason.KUBERNETES_UNAVAILABLE, message)
        self.retry_after = retry_after


class WatchExpired(Unavailable):
    """The version to go on from is too old (410 Gone): list again."""

    def __init__(self, message: str) -> None:
        super().__init__(Reason.KUBERNETES_UNAVAILABLE, message)


@dataclass(frozen=True, slots=True, kw_only=True)
class Listed:
    """What a list answered, all pages, and the version to watch from."""

    items: tuple[Any, ...]
    resource_version: str


@dataclass(frozen=True, slots=True)
class WatchEvent:
    """One line of a watch: `kind` is ADDED, MODIFIED, DELETED or BOOKMARK."""

    kind: str
    object: KubeObject


class KubernetesApi(Protocol):
    """Calls to one API server by path, such as `/api/v1/pods`. `citadel.kubernetes.client` is the real one.

    Each raises `Unavailable`, with a reason that says who can mend it: `kubernetes_unavailable` (`ApiUnavailable`:
    waiting mends it), `kubernetes_untrusted` (TLS), `kubernetes_login_refused` (401), `kubernetes_denied` (403; the
    message names verb and resource) and `kubernetes_refused` (it understood, and says no). What is part of the work
    is told apart: `NotFound` (`kubernetes_not_found`), and `FailedPrecondition` (`kubernetes_conflict`) for what
    exists already or was changed meanwhile.
    """

    async def get(self, path: str) -> KubeObject:
        """The object at `path`."""
        ...

    async def list(self, path: str, *, labels: str = "", fields: str = "", each: Each = as_it_is) -> Listed:
        """All objects of a collection that the selectors fit, read in pages: what `each` makes of them."""
        ...

    async def create(self, path: str, body: KubeObject) -> KubeObject:
        """Create an object in the collection at `path`; reviews (TokenReview, SubjectAccessReview) are asked so."""
        ...

    async def apply(self, path: str, body: KubeObject, *, force: bool = True) -> KubeObject:
        """Server-side apply with the field manager `citadel`: the object at `path` is made, or changed to `body`."""
        ...

    async def replace(self, path: str, body: KubeObject) -> KubeObject:
        """Put `body` in the place of the object at `path`; its resourceVersion, where set, must be the current one."""
        ...

    async def delete(self, path: str) -> None:
        """Delete the object at `path`; what is not there is no error."""
        ...

    def watch(
        self, path: str, *, resource_version: str, labels: str = "", fields: str = ""
    ) -> AbstractAsyncContextManager[AsyncIterator[WatchEvent]]:
        """Changes of a collection since `resource_version`, until the API server ends the watch.

        Raises `WatchExpired`, when it is opened or later.
        """
        ...

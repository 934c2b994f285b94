"""Whether a service account may read a secret: the API server's word, asked again while somebody relies on it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from citadel.clock import Clock
from citadel.errors import CitadelError
from citadel.kubernetes.ports import ApiUnavailable, KubernetesApi
from citadel.pace import Pace

REVIEWS: Final = "/apis/authorization.k8s.io/v1/subjectaccessreviews"
# A right that was taken away is noticed after this, and one that was given.
ASK_AGAIN: Final = 60.0  # seconds
ASK_AGAIN_DENIED: Final = 10.0  # at first, and then ever more rarely: most of those are never given
_LONGEST_PAUSE: Final = 30.0


@dataclass(frozen=True, slots=True)
class Reading:
    """A service account of `account_namespace` reads the secret `name` in `namespace`."""

    account_namespace: str
    account: str
    namespace: str
    name: str

    def review(self) -> Mapping[str, Any]:
        """The question, as a SubjectAccessReview."""
        return {
            "apiVersion": "authorization.k8s.io/v1",
            "kind": "SubjectAccessReview",
            "spec": {
                "user": f"system:serviceaccount:{self.account_namespace}:{self.account}",
                # As the API server itself sees who shows a token of this account.
                "groups": [
                    "system:serviceaccounts",
                    f"system:serviceaccounts:{self.account_namespace}",
                    "system:authenticated",
                ],
                "resourceAttributes": {
                    "namespace": self.namespace,
                    "verb": "get",
                    "group": "",
                    "version": "v1",
                    "resource": "secrets",
                    "name": self.name,
                },
            },
        }


class Right:
    """The answer to one question. While the API server is away it stays as it was.

    `is_allowed` is None until there was one, and `trouble` says why there is none now.
    """

    def __init__(
        self,
        reading: Reading,
        *,
        api: KubernetesApi,
        at_once: asyncio.Semaphore,
        draw: Callable[[], float],
        clock: Clock,
    ) -> None:
        """`at_once` bounds how many questions are under way."""
        self._reading = reading
        self._api = api
        self._at_once = at_once
        self._draw = draw
        self._clock = clock
        self._pace = Pace(clock=clock, draw=draw)
        self._denied_pause = ASK_AGAIN_DENIED
        self.is_allowed: bool | None = None
        self.trouble: CitadelError | None = None

    @property
    def is_of_use(self) -> bool | None:
        """See `ca.kubernetes.gateways.followed.Followable`."""
        return self.is_allowed

    async def run(self, changed: Callable[[], None]) -> None:
        """Ask again and again."""
        while True:
            before = self.is_allowed, self.trouble is None
            wait = await self._ask()
            if before != (self.is_allowed, self.trouble is None):
                changed()
            await self._clock.sleep(wait)

    async def _ask(self) -> float:
        """Seconds until it should be asked again."""
        try:
            async with self._at_once:
                answer = await self._api.create(REVIEWS, self._reading.review())
        except CitadelError as error:
            self.trouble = error
            self._pace.failed(longest=_LONGEST_PAUSE)
            asked = error.retry_after if isinstance(error, ApiUnavailable) else None
            return max(self._pace.wait, asked.total_seconds() if asked is not None else 0.0)
        self._pace.worked()
        self.trouble = None
        self.is_allowed = (answer.get("status") or {}).get("allowed") is True
        # Up to a quarter less, so that many do not come to ask in one instant.
        return self._pause() * (1 - self._draw() / 4)

    def _pause(self) -> float:
        if self.is_allowed:
            self._denied_pause = ASK_AGAIN_DENIED
            return ASK_AGAIN
        pause = self._denied_pause
        self._denied_pause = min(2 * pause, ASK_AGAIN)
        return pause

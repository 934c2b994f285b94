"""Tokens of service accounts, which the cluster's API server judges when it is asked by a TokenReview."""

from __future__ import annotations

import hashlib
import re
from collections import OrderedDict
from datetime import datetime, timedelta
from typing import Final

from ca.kubernetes.accounts import ProvenAccount, proven_account, refuse_by_its_own_words
from ca.kubernetes.shared_calls import SharedCalls
from citadel.clock import Clock
from citadel.errors import Reason, Unauthenticated
from citadel.kubernetes.ports import KubernetesApi

REVIEWS: Final = "/apis/authentication.k8s.io/v1/tokenreviews"
# What a header may hold as a bearer's token (RFC 6750), and no more than any API server takes.
_TOKEN: Final = re.compile(r"[A-Za-z0-9._~+/=-]{1,16384}")
# Of a client's hundred connections: whoever shows tokens of nothing must not keep others from theirs.
_AT_ONCE: Final = 32
_MOST_KEPT: Final = 20_000  # some 600 bytes each


class TokenReviewer:
    """Says whose tokens are, in one cluster and for one audience.

    Good answers are kept for `keep`, and never longer than the token lasts; nothing else is. Who asks for a token that
    is being asked for waits for that answer. Where `keep` is nothing, every call asks for itself. Tokens are known by
    their SHA-256 and never kept.
    """

    def __init__(
        self, api: KubernetesApi, *, cluster: str, audience: str, clock: Clock, keep: timedelta = timedelta(0)
    ) -> None:
        self._api = api
        self._cluster = cluster
        self._audience = audience
        self._clock = clock
        self._keep = keep
        self._kept: OrderedDict[bytes, tuple[ProvenAccount, datetime]] = OrderedDict()
        self._reviews: SharedCalls[ProvenAccount] = SharedCalls(_AT_ONCE, clock=clock)

    async def account(self, token: str) -> ProvenAccount:
        """Whose token it is.

        Raises `Unauthenticated` (`k8s_token_refused`, `k8s_token_expired`, `k8s_token_audience`), and `Unavailable`
        where the API server cannot say it now.
        """
        if _TOKEN.fullmatch(token) is None:
            raise Unauthenticated(Reason.K8S_TOKEN_REFUSED, "this is no token of a service account")
        digest = hashlib.sha256(token.encode()).digest()
        if (known := self._known(digest)) is not None:  # its own words were read when it was reviewed
            return known
        refuse_by_its_own_words(token, audience=self._audience, now=self._clock.now())
        if not self._keep:
            return await self._reviews.once(object(), lambda: self._reviewed(token))
        return await self._reviews.once(digest, lambda: self._reviewed_and_kept(token, digest))

    def _known(self, digest: bytes) -> ProvenAccount | None:
        account, until = self._kept.get(digest, (None, None))
        if account is None or until is None:
            return None
        if until <= self._clock.now():
            del self._kept[digest]
            return None
        return account

    async def _reviewed_and_kept(self, token: str, digest: bytes) -> ProvenAccount:
        account = await self._reviewed(token)
        self._kept[digest] = account, min(self._clock.now() + self._keep, account.ends_at)
        self._kept.move_to_end(digest)
        while len(self._kept) > _MOST_KEPT:
            self._kept.popitem(last=False)
        return account

    async def _reviewed(self, token: str) -> ProvenAccount:
        asked = {
            "apiVersion": "authentication.k8s.io/v1",
            "kind": "TokenReview",
            "spec": {"token": token, "audiences": [self._audience]},
        }
        review = await self._api.create(REVIEWS, asked)
        return proven_account(review, token, cluster=self._cluster, audience=self._audience, now=self._clock.now())

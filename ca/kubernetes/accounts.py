"""Who the API server says that a token is, and why it says that it is nobody (pure)."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

from citadel.errors import CitadelError, Reason, Unauthenticated, Unavailable
from citadel.kubernetes.ports import KubeObject
from citadel.kubernetes.reading import part

_USER: Final = re.compile(
    r"system:serviceaccount:(?P<namespace>[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?)"
    r":(?P<name>[a-z0-9](?:[a-z0-9.-]{0,251}[a-z0-9])?)"
)
_GROUP: Final = "system:serviceaccounts"
_EXTRA: Final = "authentication.kubernetes.io/"
# What an API server says where it, its store or whom it asks did not answer: then nothing is known of the token.
_UNCHECKED: Final = re.compile(
    r"time[d ]?\s?out|time allotted|deadline exceeded|context canceled|connection|unreachable|no route to host"
    r"|broken pipe|unavailable|unable to handle|too many requests|rate limit|try again|initializ|internal error"
    r"|etcdserver|\bdial |\bEOF\b|\btls: |\bx509: ",
    re.IGNORECASE,
)
_MOST_READ: Final = 4096  # letters of it
_QUOTED: Final = re.compile(r'"[^"]*"')
# What it says of a token that it has made itself.
_GONE: Final = ("invalidated", "deleted", "not match claim", "not match service account", "not found")


@dataclass(frozen=True, slots=True)
class Named:
    """An object by its name, and by the UID that no other ever has."""

    name: str
    uid: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ProvenAccount:
    """The service account whose token it is. `pod` is what the token is bound to, `node` where that pod was bound to.

    Either can be missing: not every token is bound to a pod, and older API servers do not say the node. `ends_at` is
    when the token does.
    """

    cluster: str
    namespace: str
    name: str
    uid: str
    pod: Named | None
    node: Named | None
    ends_at: datetime

    @property
    def key(self) -> str:
        """`namespace/name`, as settings write it."""
        return f"{self.namespace}/{self.name}"


def proven_account(review: KubeObject, token: str, *, cluster: str, audience: str, now: datetime) -> ProvenAccount:
    """Who the answered `review` says that `token` is.

    Raises `Unauthenticated`: `k8s_token_refused`, `k8s_token_expired` or `k8s_token_audience`; and `Unavailable` where
    the API server answers that it could not check the token.
    """
    claims = _claims(token)
    status = part(review, "status")
    if status.get("authenticated") is not True:
        raise _refused(str(status.get("error") or ""), claims, audience=audience, now=now)
    if audience not in _list(status, "audiences"):
        # An API server that knows no audiences takes any token, also one that was made for itself.
        raise Unauthenticated(
            Reason.K8S_TOKEN_AUDIENCE, f"the API server does not say that the token is for {audience!r}"
        )
    user = part(status, "user")
    found = _USER.fullmatch(str(user.get("username")))
    if found is None or not {_GROUP, f"{_GROUP}:{found['namespace']}"} <= {*_list(user, "groups")}:
        raise Unauthenticated(Reason.K8S_TOKEN_REFUSED, "the token is not one of a service account")
    ends_at = _moment(claims.get("exp"))
    if ends_at is None:
        raise _endless()
    if ends_at <= now:  # for some seconds an API server repeats what it found before
        raise _expired(ends_at)
    extra = part(user, "extra")
    return ProvenAccount(
        cluster=cluster,
        namespace=found["namespace"],
        name=found["name"],
        uid=str(user.get("uid") or ""),
        pod=_named(extra, "pod"),
        node=_named(extra, "node"),
        ends_at=ends_at,
    )


def refuse_by_its_own_words(token: str, *, audience: str, now: datetime) -> None:
    """Raises what `proven_account` would, where the token's own claims leave nothing else: nobody is asked for it.

    They are believed against the token alone, never for it.
    """
    claims = _claims(token)
    ends_at = _moment(claims.get("exp"))
    meant = claims.get("aud")
    if ends_at is None:
        raise _endless()
    if ends_at <= now:
        raise _expired(ends_at)
    if meant and audience not in (meant, *_list(claims, "aud")):
        raise _for_others(audience)


def _refused(error: str, claims: Mapping[str, Any], *, audience: str, now: datetime) -> CitadelError:
    """Why it was refused. It is refused in any case: what the token claims shapes only what its bearer is told."""
    ends_at, meant = _moment(claims.get("exp")), claims.get("aud")
    is_over = ends_at is not None and ends_at <= now
    is_for_others = bool(meant and audience not in (meant, *_list(claims, "aud")))
    # Of several ways to check a token one may have said no, and the one that would have said yes nothing.
    if not (is_over or is_for_others) and _could_not_check(error):
        return Unavailable(
            Reason.KUBERNETES_UNAVAILABLE,
            "the API server could not check the token",
            fix="ask again; if it stays so, read what the API server logs of its store and its webhooks for tokens",
        )
    if is_over or "has expired" in error:
        return _expired(ends_at)
    if is_for_others or "is invalid for the target audiences" in error:
        return _for_others(audience)
    # Its own words can name other parts of the cluster, and the caller may be anybody.
    is_of_it = any(words in error for words in _GONE)
    why = (
        "what it is bound to is gone" if is_of_it else "it is not one of this cluster's, or what it is bound to is gone"
    )
    return Unauthenticated(
        Reason.K8S_TOKEN_REFUSED,
        f"the API server does not take the token: {why}",
        fix="send the projected token of a running pod of this cluster",
    )


def _could_not_check(error: str) -> bool:
    """Whether that is what it says. Names, which stand in quotation marks or as `namespace/name`, say nothing."""
    words = (word for word in _QUOTED.sub("", error[:_MOST_READ]).split() if "/" not in word)
    return _UNCHECKED.search(" ".join(words)) is not None


def _for_others(audience: str) -> CitadelError:
    return Unauthenticated(
        Reason.K8S_TOKEN_AUDIENCE,
        f"the token is not for {audience!r}",
        fix=f"project it with the audience {audience}",
    )


def _endless() -> CitadelError:
    return Unauthenticated(Reason.K8S_TOKEN_REFUSED, "the token says no end; only projected tokens are taken")


def _expired(ends_at: datetime | None) -> CitadelError:
    when = f" at {ends_at.isoformat()}" if ends_at is not None else ""
    return Unauthenticated(
        Reason.K8S_TOKEN_EXPIRED, f"the token has expired{when}", fix="read it anew from its file for each call"
    )


def _claims(token: str) -> Mapping[str, Any]:
    """What the token says of itself, checked by nobody; nothing where it cannot be read."""
    _, _, rest = token.partition(".")
    payload = rest.partition(".")[0].encode()
    try:
        found = json.loads(base64.urlsafe_b64decode(payload + b"=" * (-len(payload) % 4)))
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _moment(seconds: object) -> datetime | None:
    if isinstance(seconds, bool) or not isinstance(seconds, int | float):
        return None
    try:
        return datetime.fromtimestamp(seconds, UTC)
    except (ValueError, OverflowError, OSError):
        return None


def _named(extra: Mapping[str, Any], kind: str) -> Named | None:
    name, uid = _list(extra, f"{_EXTRA}{kind}-name"), _list(extra, f"{_EXTRA}{kind}-uid")
    # Of two values nobody could say which is meant.
    return Named(name[0], uid[0]) if len(name) == len(uid) == 1 and name[0] and uid[0] else None


def _list(found: Mapping[str, Any], name: str) -> Sequence[str]:
    value = found.get(name)
    return [str(each) for each in value] if isinstance(value, list) else []

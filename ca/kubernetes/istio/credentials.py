"""What a proxy shows of itself in a call's metadata: a token, and which cluster that is of."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final, Self

from citadel.errors import CitadelError, Reason, Unauthenticated

_BEARER: Final = "Bearer "
_MOST_LETTERS: Final = 16 * 1024  # of a token


@dataclass(frozen=True, slots=True)
class Credentials:
    """A token that was not checked yet. `cluster` is empty where the caller names none."""

    token: str = field(repr=False)
    cluster: str

    @classmethod
    def of(cls, metadata: Iterable[tuple[str, str | bytes]]) -> Self:
        """Raises `Unauthenticated` (`k8s_token_refused`, `k8s_cluster_unknown`) unless there is one of each at most."""
        tokens, clusters = [], []
        for key, value in metadata:
            if key == "authorization":
                tokens.append(str(value))
            elif key == "clusterid":
                clusters.append(str(value))
        if len(tokens) != 1 or not tokens[0].startswith(_BEARER):
            raise _refused("the call has no authorization of the form `Bearer TOKEN`, or several")
        token = tokens[0].removeprefix(_BEARER).strip()
        if not token or len(token) > _MOST_LETTERS:
            raise _refused(f"the token is empty, or longer than {_MOST_LETTERS} characters")
        if len(clusters) > 1:
            raise Unauthenticated(Reason.K8S_CLUSTER_UNKNOWN, "the call names several clusters")
        return cls(token, clusters[0] if clusters else "")


def _refused(message: str) -> CitadelError:
    return Unauthenticated(
        Reason.K8S_TOKEN_REFUSED, message, fix="send the projected token of the pod's service account"
    )

"""What gateways call their credentials: `kubernetes://name` and `kubernetes://namespace/name`, as Istio's do."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final, Self

from citadel.errors import InvalidArgument, Reason

SCHEME: Final = "kubernetes://"
_AUTHORITIES: Final = "-cacert"
_MOST_NAME: Final = 253
# RFC 1123, as Kubernetes names its objects: what fits can stand in a path and in a field selector.
_LABEL: Final = r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?"
_NAMESPACE: Final = re.compile(_LABEL)
_NAME: Final = re.compile(r"[a-z0-9](?:[a-z0-9-]*[a-z0-9])?(?:\.[a-z0-9](?:[a-z0-9-]*[a-z0-9])?)*")


@dataclass(frozen=True, slots=True)
class CredentialName:
    """A secret; without a `namespace` it is in the gateway's own. With `-cacert` it names authorities, not a key."""

    namespace: str | None
    name: str

    @classmethod
    def parse(cls, text: str) -> Self:
        """Raises `InvalidArgument` (`credential_unknown`)."""
        namespace, slash, name = text.removeprefix(SCHEME).rpartition("/")
        is_sound = is_credential_name(text) and _is_name(name) and (not slash or _NAMESPACE.fullmatch(namespace))
        if not is_sound:
            raise InvalidArgument(
                Reason.CREDENTIAL_UNKNOWN,
                f"{text[:200]!r} does not name a secret",
                fix="write kubernetes://name or kubernetes://namespace/name, by Kubernetes' rules for names",
            )
        return cls(namespace if slash else None, name)

    @property
    def is_authorities(self) -> bool:
        """Whether it stands for what vouches for clients, rather than for a certificate with its key."""
        return self.name.endswith(_AUTHORITIES)

    @property
    def secrets(self) -> tuple[str, ...]:
        """The secrets that can have it: the first of them that there is does."""
        if not self.is_authorities:
            return (self.name,)
        other = self.name.removesuffix(_AUTHORITIES)
        return (self.name, other) if _is_name(other) else (self.name,)


def is_credential_name(text: str) -> bool:
    """Whether it is meant to name a credential, well or badly."""
    return text.startswith(SCHEME)


def _is_name(text: str) -> bool:
    return len(text) <= _MOST_NAME and _NAME.fullmatch(text) is not None

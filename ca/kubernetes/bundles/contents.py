"""The own trust bundle as it stands in objects of Kubernetes (pure)."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final, Literal, Protocol, TypeAlias

from citadel.bundle import TrustBundle
from citadel.kubernetes.ports import KubeObject

LABELS: Final = {"app.kubernetes.io/managed-by": "citadel"}
Form: TypeAlias = Literal["pem", "spiffe"]
_DESCRIPTION: Final = "kubernetes.io/description"


class OwnBundle(Protocol):
    """The own trust bundle in force."""

    def bundle(self) -> TrustBundle:
        """The bundle."""
        ...

    def watch(self, callback: Callable[[], None]) -> None:
        """Call `callback` at every change of it from now on."""
        ...


@dataclass(frozen=True, slots=True)
class Contents:
    """The bundle in each of the forms in which it is kept."""

    trust_domain: str
    texts: Mapping[Form, str]
    digests: Mapping[Form, str]

    @classmethod
    def of(cls, bundle: TrustBundle) -> Contents:
        """Those of this bundle."""
        texts: dict[Form, str] = {"pem": bundle.to_pem().decode(), "spiffe": bundle.to_json().decode()}
        return cls(bundle.trust_domain.name, texts, {form: digest(text) for form, text in texts.items()})

    def metadata(self, name: str) -> KubeObject:
        """What says who keeps an object."""
        words = f"Trust bundle of {self.trust_domain}, kept by Citadel: what is changed in it is put back."
        return {"name": name, "labels": LABELS, "annotations": {_DESCRIPTION: words}}


def digest(text: str) -> str:
    """A short stand-in for a text: thousands of namespaces have the same one."""
    return hashlib.sha256(text.encode()).hexdigest()

"""For whom a credential is asked: the pod behind an entry that the server made for it."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final, Self

from citadel.entry import Entry
from citadel.errors import PermissionDenied, Reason

_ORIGIN: Final = re.compile(r"k8s:(?P<cluster>[^/]+)/(?P<namespace>[^/]+)/(?P<pod>[^/]+)")
_UID: Final = "pod-uid:"


@dataclass(frozen=True, slots=True)
class Gateway:
    """A pod, by the cluster and what names it there. What an entry says of it comes from the server alone."""

    cluster: str
    namespace: str
    pod: str
    uid: str

    @classmethod
    def of(cls, entry: Entry) -> Self:
        """The pod that this entry is there for. Raises `PermissionDenied` (`credential_not_allowed`)."""
        origin = _ORIGIN.fullmatch(entry.origin)
        values = [each.value for each in entry.selectors if each.type == "k8s"]
        uids = [value.removeprefix(_UID) for value in values if value.startswith(_UID)]
        if origin is None or len(uids) != 1:
            raise PermissionDenied(
                Reason.CREDENTIAL_NOT_ALLOWED,
                f"entry {entry.id} is not there because of a pod",
                fix="credentials are for pods that have their identity by the template of their cluster",
            )
        return cls(origin["cluster"], origin["namespace"], origin["pod"], uids[0])

    def __str__(self) -> str:
        return f"pod {self.namespace}/{self.pod} of {self.cluster}"

"""Which selectors an attestor can ever produce.

One that never matches is a certificate that never arrives, or a policy that is nobody's.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final

from citadel.errors import InvalidArgument, Reason
from citadel.selector import Selector

_NUMBER: Final = r"0|[1-9][0-9]{0,9}"
_NAME: Final = r"[^\s:]+"
# What `sds.attest.unix` says of a process, and in which form.
_UNIX: Final = {
    "uid": (re.compile(_NUMBER), "a number, such as unix:uid:1000"),
    "gid": (re.compile(_NUMBER), "a number, such as unix:gid:1000"),
    "user": (re.compile(_NAME), "a name, such as unix:user:web"),
    "group": (re.compile(_NAME), "a name, such as unix:group:web"),
    "path": (re.compile(r"/.*"), "an absolute path, such as unix:path:/usr/bin/envoy"),
    "sha256": (re.compile(r"[0-9a-f]{64}"), "64 lowercase hex digits, as sha256sum prints them"),
}
_LABEL: Final = r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?"
_SUBDOMAIN: Final = r"[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?"
# What `sds.attest.kubernetes` says of a pod and a container, and in which form.
_K8S: Final = {
    "ns": (re.compile(_LABEL), "a namespace, such as k8s:ns:shop"),
    "sa": (re.compile(_SUBDOMAIN), "a service account, such as k8s:sa:web"),
    "pod-name": (re.compile(_SUBDOMAIN), "a pod, such as k8s:pod-name:web-0"),
    "pod-uid": (re.compile(r"[0-9A-Za-z-]{1,128}"), "the UID of a pod"),
    "pod-label": (re.compile(r"[^:\s]+:\S*"), "a label and its value, such as k8s:pod-label:app:web"),
    "pod-owner": (re.compile(r"[A-Za-z]+:\S+"), "a kind and a name, such as k8s:pod-owner:ReplicaSet:web-7d9f"),
    "container-name": (re.compile(_LABEL), "a container, such as k8s:container-name:istio-proxy"),
    "container-image": (
        re.compile(r"\S+"),
        "an image as the pod names it, such as k8s:container-image:example.org/web:1",
    ),
    "node-name": (re.compile(_SUBDOMAIN), "a node, such as k8s:node-name:worker-1"),
}
_KINDS: Final = {"unix": _UNIX, "k8s": _K8S}
_MANY: Final = frozenset(
    {"k8s:pod-label", "k8s:pod-owner", "k8s:container-image"}
)  # of which a caller can have several


def check_workload_selectors(selectors: Iterable[Selector]) -> None:
    """Refuse, with `InvalidArgument` (`entry_bad_selector`), what can never match a workload."""
    seen: dict[str, Selector] = {}
    for selector in selectors:
        check_workload_selector(selector)
        # A process has one of each of most, and all selectors must match.
        if selector.kind in seen and selector.kind not in _MANY:
            raise _never(selector, f"{seen[selector.kind]} is required as well, and a process has only one")
        seen[selector.kind] = selector


def check_workload_selector(selector: Selector) -> None:
    """Refuse one that can never match, whatever stands beside it."""
    key, _, value = selector.value.partition(":")
    forms = _KINDS.get(selector.type, {})
    if key not in forms:
        known = ", ".join(f"{kind}:{name}" for kind, names in _KINDS.items() for name in names)
        raise _never(selector, f"no attestor says this; there are {known}")
    pattern, form = forms[key]
    if pattern.fullmatch(value) is None:
        raise _never(selector, f"it is {form}")


def _never(selector: Selector, why: str) -> InvalidArgument:
    return InvalidArgument(Reason.ENTRY_BAD_SELECTOR, f"selector {str(selector)[:200]} can never match: {why}")

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


def check_workload_selectors(selectors: Iterable[Selector]) -> None:
    """Refuse, with `InvalidArgument` (`entry_bad_selector`), what can never match a workload."""
    seen: dict[str, Selector] = {}
    for selector in selectors:
        check_workload_selector(selector)
        # A process has one of each, and all selectors must match.
        if selector.kind in seen:
            raise _never(selector, f"{seen[selector.kind]} is required as well, and a process has only one")
        seen[selector.kind] = selector


def check_workload_selector(selector: Selector) -> None:
    """Refuse one that can never match, whatever stands beside it."""
    key, _, value = selector.value.partition(":")
    if selector.type != "unix" or key not in _UNIX:
        known = ", ".join(f"unix:{name}" for name in _UNIX)
        raise _never(selector, f"no attestor says this; there are {known}")
    pattern, form = _UNIX[key]
    if pattern.fullmatch(value) is None:
        raise _never(selector, f"it is {form}")


def _never(selector: Selector, why: str) -> InvalidArgument:
    return InvalidArgument(Reason.ENTRY_BAD_SELECTOR, f"selector {str(selector)[:200]} can never match: {why}")

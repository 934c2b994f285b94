"""Whether the right secrets engine is where the settings say (pure)."""

from __future__ import annotations

from ca.settings import ServerSettings
from ca.vault_check.facts import Mount, Seen, VaultFacts
from ca.vault_check.policy import rules_for
from ca.vault_check.subject import Subject
from citadel.errors import CitadelError, Reason
from citadel.finding import Finding, bad, failed, good, unknown


def is_hidden(mount: str, facts: VaultFacts, settings: ServerSettings) -> bool:
    """Whether the policy keeps it from being seen what is at `mount`: it must allow something below it."""
    allowed = facts.allowed
    if isinstance(allowed, CitadelError):
        return True
    below = (rule.path for rule in rules_for(settings) if rule.path.startswith(f"{mount}/"))
    return not any(allowed.get(path, frozenset()) - {"deny"} for path in below)


def mount_finding(mount: Seen[Mount], path: str, engine: str, *, is_hidden: bool) -> Finding:
    """Whether there is the right engine at `path`."""
    if isinstance(mount, CitadelError):
        if is_hidden and mount.reason is Reason.VAULT_DENIED:
            return unknown(Subject.MOUNT, f"nothing is mounted at {path}, or the policy allows nothing below it")
        fix = f"enable it (`vault secrets enable -path={path} {engine}`), or set the `mount` that it has"
        if mount.reason is Reason.VAULT_DENIED:  # said alike where the policy allows nothing below it
            return bad(Subject.MOUNT, Reason.VAULT_NOT_FOUND, f"nothing that may be seen is mounted at {path}", fix)
        return failed(Subject.MOUNT, mount, fix)
    if mount.engine != engine:
        found = f"at {path} is the engine {mount.engine}, not {engine}"
        return bad(Subject.MOUNT, Reason.VAULT_NOT_FOUND, found, f"set the `mount` of one that is {engine}")
    return good(Subject.MOUNT, f"{engine} at {path}")

"""Whether the right secrets engine is where the settings say (pure)."""

from __future__ import annotations

from ca.vault_check.facts import Mount, Seen
from ca.vault_check.finding import Finding, Subject, bad, failed, good
from citadel.errors import CitadelError, Reason


def mount_finding(mount: Seen[Mount], path: str, engine: str) -> Finding:
    """Whether there is the right engine at `path`."""
    if isinstance(mount, CitadelError):
        fix = f"enable it (`vault secrets enable -path={path} {engine}`), or set the `mount` that it has"
        if mount.reason is Reason.VAULT_DENIED:  # said alike where the policy allows nothing below it
            return bad(Subject.MOUNT, Reason.VAULT_NOT_FOUND, f"nothing that may be seen is mounted at {path}", fix)
        return failed(Subject.MOUNT, mount, fix)
    if mount.engine != engine:
        found = f"at {path} is the engine {mount.engine}, not {engine}"
        return bad(Subject.MOUNT, Reason.VAULT_NOT_FOUND, found, f"set the `mount` of one that is {engine}")
    return good(Subject.MOUNT, f"{engine} at {path}")

"""From what a Transit secrets engine holds to findings: whether it can keep, or seal, this server's keys (pure)."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final

from ca.keys.sealing import KeyPurpose
from ca.settings import ServerSettings
from ca.vault_check.access import is_among_own
from ca.vault_check.facts import Keys, Seal
from ca.vault_check.finding import Finding, Subject, bad, failed, good, unknown, warning
from ca.vault_check.mounts import mount_finding
from citadel.errors import CitadelError, Reason

_SEALING: Final = "aes256-gcm96"
_OWN_FORM: Final = re.compile(rf"({'|'.join(KeyPurpose)})-[0-9a-f]{{32}}")  # what follows the prefix
_SHOWN: Final = 3


def transit_findings(keys: Keys, settings: ServerSettings) -> Iterator[Finding]:
    """Everything about `keys.vault_transit`."""
    named = settings.keys.vault_transit
    assert named is not None  # noqa: S101 - for the type checker: it was looked at because it is set
    yield mount_finding(keys.mount, named.mount, "transit")
    if not isinstance(keys.mount, CitadelError) and keys.mount.engine == "transit":
        yield _prefix(keys, settings)


def seal_findings(seal: Seal, settings: ServerSettings) -> Iterator[Finding]:
    """Everything about `keys.vault_seal`."""
    named = settings.keys.vault_seal
    assert named is not None  # noqa: S101 - as above
    yield mount_finding(seal.mount, named.mount, "transit")
    if isinstance(seal.mount, CitadelError) or seal.mount.engine != "transit":
        return
    key, path = seal.key, f"{named.mount}/keys/{named.key}"
    make = f"`vault write -f {path} type={_SEALING}`"
    if isinstance(key, CitadelError):
        if key.reason is Reason.VAULT_DENIED:
            yield unknown(Subject.SEAL_KEY, "the policy does not allow to read it")
        else:
            yield failed(Subject.SEAL_KEY, key, f"make it: {make}")
    elif key.kind != _SEALING:
        found = f"{path} is of type {key.kind}, not {_SEALING}"
        yield bad(Subject.SEAL_KEY, Reason.VAULT_REFUSED, found, f"name another one: {make} makes it")
    elif key.is_exportable or key.has_plaintext_backup:
        how = "exported" if key.is_exportable else "backed up in the clear"
        yield warning(Subject.SEAL_KEY, f"{path} can be {how}", f"make one that cannot, and rewrap: {make}")
    else:
        yield good(Subject.SEAL_KEY, f"{path}, {key.kind}, not exportable")


def _prefix(keys: Keys, settings: ServerSettings) -> Finding:
    """Whether all that the policy lets this server delete is its own."""
    named, seal = settings.keys.vault_transit, settings.keys.vault_seal
    assert named is not None  # noqa: S101 - as above
    begin = f"{named.prefix}-"
    if seal is not None and is_among_own(settings):
        found = f"{seal.key}, which seals keys, begins as those that this server may delete"
        return warning(Subject.PREFIX, found, "give one of the two another name, or another mount")
    if isinstance(keys.names, CitadelError):
        return unknown(Subject.PREFIX, f"what others there begin with {begin} cannot be told: that needs list")
    others = [each for each in keys.names if each.startswith(begin) and not _OWN_FORM.fullmatch(each[len(begin) :])]
    if others:
        shown = ", ".join(sorted(others)[:_SHOWN]) + (" and others" if len(others) > _SHOWN else "")
        found = f"{shown}: not of this server's making, and it may delete them"
        return warning(Subject.PREFIX, found, "set a `prefix` that no other name there begins with")
    return good(Subject.PREFIX, f"those of this server begin with {begin}")

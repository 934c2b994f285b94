"""From what a Transit secrets engine holds to findings: whether it can keep, or seal, this server's keys (pure)."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final

from ca.keys.sealing import KeyPurpose
from ca.settings import ServerSettings
from ca.vault_check.access import is_among_own
from ca.vault_check.facts import Keys, Seal
from ca.vault_check.mounts import mount_finding
from ca.vault_check.policy import own_beginnings
from ca.vault_check.subject import Subject
from citadel.errors import CitadelError, Reason
from citadel.finding import Finding, bad, failed, good, unknown, warning

_SEALING: Final = "aes256-gcm96"
_OWN_FORM: Final = re.compile(rf"({'|'.join(KeyPurpose)})-[0-9a-f]{{32}}")  # what follows the prefix
_SHOWN: Final = 3
_RESTORE: Final = "restore it from a backup of Vault"


def transit_findings(keys: Keys, settings: ServerSettings, *, is_hidden: bool) -> Iterator[Finding]:
    """Everything about `keys.vault_transit`."""
    named = settings.keys.vault_transit
    assert named is not None  # noqa: S101 - for the type checker: it was looked at because it is set
    yield mount_finding(keys.mount, named.mount, "transit", is_hidden=is_hidden)
    if not isinstance(keys.mount, CitadelError) and keys.mount.engine == "transit":
        yield _prefix(keys, settings)


def seal_findings(seal: Seal, settings: ServerSettings, *, is_hidden: bool) -> Iterator[Finding]:
    """Everything about `keys.vault_seal`."""
    named = settings.keys.vault_seal
    assert named is not None  # noqa: S101 - as above
    yield mount_finding(seal.mount, named.mount, "transit", is_hidden=is_hidden)
    if isinstance(seal.mount, CitadelError) or seal.mount.engine != "transit":
        return
    key, path = seal.key, f"{named.mount}/keys/{named.key}"
    make = f"`vault write -f {path} type={_SEALING}`"
    if isinstance(key, CitadelError) and key.reason is Reason.VAULT_DENIED:
        yield unknown(Subject.SEAL_KEY, "the policy does not allow to read it")
    elif isinstance(key, CitadelError):
        yield _gone(key, seal.has_sealed, make)
    elif seal.opened is not None and seal.opened.reason is Reason.VAULT_REFUSED:  # others are said above, or pass
        found = f"{path} does not open what is sealed on record: {seal.opened.message}"
        yield bad(Subject.SEAL_KEY, seal.opened.reason, found, f"{_RESTORE}, or name the key that sealed it")
    elif key.kind != _SEALING:
        found = f"{path} is of type {key.kind}, not {_SEALING}"
        yield bad(Subject.SEAL_KEY, Reason.VAULT_REFUSED, found, f"name another one: {make} makes it")
    elif key.is_exportable or key.has_plaintext_backup:
        how = "exported" if key.is_exportable else "backed up in the clear"
        yield warning(Subject.SEAL_KEY, f"{path} can be {how}", f"make one that cannot, and rewrap: {make}")
    else:
        yield good(Subject.SEAL_KEY, f"{path}, {key.kind}, not exportable")


def _gone(error: CitadelError, has_sealed: bool, make: str) -> Finding:
    """A new key in the place of one that is lost would only hide that."""
    if has_sealed:
        found = f"{error.message}, and keys on record are sealed by it"
        fix = f"{_RESTORE}: a new one opens nothing that is sealed"
        return bad(Subject.SEAL_KEY, Reason.VAULT_KEY_LOST, found, fix)
    return failed(Subject.SEAL_KEY, error, f"make it, if no server has ever used it ({make}); else {_RESTORE}")


def _prefix(keys: Keys, settings: ServerSettings) -> Finding:
    """Whether all that the policy lets this server delete is its own."""
    named, seal = settings.keys.vault_transit, settings.keys.vault_seal
    assert named is not None  # noqa: S101 - as above
    begin = f"{named.prefix}-"
    if seal is not None and is_among_own(settings):
        found = f"{seal.key}, which seals keys, begins as those that this server may delete"
        return warning(Subject.PREFIX, found, "give one of the two another name, or another mount")
    # No server needs to list names: `citadel-cli vault policy` does not allow it, and that is nothing to look into.
    names = () if isinstance(keys.names, CitadelError) else keys.names
    alike = [each for each in names if each.startswith(own_beginnings(named))]
    others = [each for each in alike if not _OWN_FORM.fullmatch(each[len(begin) :])]
    if others:
        shown = ", ".join(sorted(others)[:_SHOWN]) + (" and others" if len(others) > _SHOWN else "")
        found = f"{shown}: not of this server's making, and it may delete them"
        return warning(Subject.PREFIX, found, "set a `prefix` that no other name there begins with")
    return good(Subject.PREFIX, f"those of this server begin with {begin}")

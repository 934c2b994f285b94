"""The smallest policy in Vault with which a server of given settings works (pure)."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

from ca.keys.sealing import KeyPurpose
from ca.keys.settings import VaultSealSettings, VaultTransitSettings
from ca.keys.transit.naming import PURPOSES
from ca.settings import ServerSettings
from ca.upstream.settings import VaultPkiSettings

_MADE: Final[Mapping[KeyPurpose, str]] = MappingProxyType(
    {
        KeyPurpose.ROOT: "the keys of root authorities",
        KeyPurpose.ISSUER: "the keys of issuing authorities",
        KeyPurpose.JWT: "the keys that sign tokens",
        KeyPurpose.RECORDS: "the key that signs the records of this server",
    }
)
_ID: Final = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """What must be allowed at a path, and what for. The path is as policies have it, with `+` and an `*` at its end.

    Without one that is not `is_vital` a server works too.
    """

    path: str
    capabilities: tuple[str, ...]
    why: str
    is_vital: bool = True


def rules_for(settings: ServerSettings) -> tuple[Rule, ...]:
    """Everything that these settings need of Vault, and nothing else."""
    makes_tokens = settings.vault is not None and settings.vault.login.token is None
    rules = list(_session(makes_tokens=makes_tokens, looks=settings.upstream.vault is not None))
    if settings.upstream.vault is not None:
        rules += _pki(settings.upstream.vault)
    if settings.keys.vault_transit is not None:
        rules += _transit(settings.keys.vault_transit, takes_in=settings.upstream.files is not None)
    if settings.keys.vault_seal is not None:
        rules += _seal(settings.keys.vault_seal)
    return tuple(rules)


def issuer_path(pki: VaultPkiSettings) -> str:
    """Issuers are asked for by their ids, so that one which is pinned by its name can be any."""
    return pki.issuer if pki.issuer is not None and _ID.fullmatch(pki.issuer) else "+"


def as_hcl(rules: Sequence[Rule]) -> str:
    """The policy as `vault policy write` takes it."""
    return "\n".join(
        f'# {rule.why}\npath "{rule.path}" {{\n  capabilities = [{_quoted(rule.capabilities)}]\n}}\n' for rule in rules
    )


def _quoted(words: Sequence[str]) -> str:
    return ", ".join(f'"{word}"' for word in words)


def _session(*, makes_tokens: bool, looks: bool) -> Iterator[Rule]:
    yield _read("auth/token/lookup-self", "Tell a token that has ended from a policy that lacks something.")
    yield _update("auth/token/renew-self", "Keep the log-in.")
    if makes_tokens:
        path, why = "auth/token/revoke-self", "Leave no token behind when the server ends."
        yield Rule(path=path, capabilities=("update",), why=why, is_vital=False)
    who = "The server, all the time, and `citadel-cli vault check`" if looks else "`citadel-cli vault check`"
    yield _update("sys/capabilities-self", f"{who}: which of these paths are allowed.")


def _pki(pki: VaultPkiSettings) -> Iterator[Rule]:
    issuers = f"{pki.mount}/issuer/{issuer_path(pki)}"
    yield _update(f"{issuers}/sign-intermediate", "Sign this server's issuing authorities.")
    if not pki.rotate_root:
        yield Rule(path=issuers, capabilities=("read",), why="Whether an issuer may sign.", is_vital=False)
        return
    why = "Whether an issuer may sign; after a rotation the old root may sign nothing more."
    yield Rule(path=issuers, capabilities=("read", "update"), why=why)
    yield _update(f"{pki.mount}/root/rotate/internal", "Make the next root.")
    yield _update(f"{pki.mount}/root/replace", "Let the next root sign.")


def own_beginnings(transit: VaultTransitSettings) -> tuple[str, ...]:
    """How names of keys begin that this server may use there: with the prefix alone also others' could."""
    return tuple(f"{transit.prefix}-{purpose}-" for purpose in PURPOSES)


def _transit(transit: VaultTransitSettings, *, takes_in: bool) -> Iterator[Rule]:
    for purpose, begin in zip(PURPOSES, own_beginnings(transit), strict=True):
        yield _kept(f"{transit.mount}/keys/{begin}*", purpose)
        yield _update(f"{transit.mount}/sign/{begin}*", "Sign with them.")
    if takes_in:
        yield _read(f"{transit.mount}/wrapping_key", "Take in the key of the folder that `upstream.files` names.")


def _kept(path: str, purpose: KeyPurpose) -> Rule:
    if purpose is KeyPurpose.RECORDS:
        why = f"Make {_MADE[purpose]}, and look at it."
        return Rule(path=path, capabilities=("read", "update"), why=why)
    why = f"Make {_MADE[purpose]}, look at them, and delete those that are no longer needed."
    return Rule(path=path, capabilities=("read", "update", "delete"), why=why)


def _seal(seal: VaultSealSettings) -> Iterator[Rule]:
    yield _update(f"{seal.mount}/datakey/plaintext/{seal.key}", "Seal keys.")
    yield _update(f"{seal.mount}/decrypt/{seal.key}", "Open sealed keys.")
    yield _read(f"{seal.mount}/keys/{seal.key}", "Whether it is a key that can seal.")


def _read(path: str, why: str) -> Rule:
    return Rule(path=path, capabilities=("read",), why=why)


def _update(path: str, why: str) -> Rule:
    return Rule(path=path, capabilities=("update",), why=why)

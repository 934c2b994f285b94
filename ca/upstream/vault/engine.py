"""The PKI secrets engine as this server asks it. Issuers are named by their ids: what is the default may change.

What it needs of a policy: `update` on `issuer/+/sign-intermediate`. Lists and certificates of issuers are for
everybody. Where the root is rotated from here, also what `_TO_ROTATE` names.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, Final

from cryptography import x509

from ca.vault.ports import Answer, Vault
from citadel.certification_path import UNREADABLE
from citadel.errors import FailedPrecondition, Reason, Unavailable

_ISSUES: Final = "issuing-certificates"
_RETIRED: Final = "read-only,crl-signing"
_TO_ROTATE: Final[Mapping[str, Sequence[str]]] = {
    "update": ("root/rotate/internal", "root/replace", "issuer/+"),
    "read": ("issuer/+",),
}
_CAPABILITIES: Final = "sys/capabilities-self"
# What comes of data that is not in the form that Vault documents: nobody's fault here, and no end of this process.
_ODD: Final = (AttributeError, LookupError, TypeError, ValueError)


@dataclass(frozen=True, slots=True, kw_only=True)
class VaultIssuer:
    """An issuer of the engine; `certificate` is None where nobody can read it."""

    id: str
    name: str
    certificate: x509.Certificate | None
    has_key: bool = True
    further: tuple[x509.Certificate, ...] = ()  # what the engine says stands above it

    def __str__(self) -> str:
        return f"the issuer {self.name or self.id}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Issued:
    """What was signed, and what the engine warned of meanwhile."""

    certificate: str
    warnings: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Lacking:
    """What a policy does not allow, in its words, as `update on pki/root/replace`."""

    to_sign: tuple[str, ...] = ()
    to_rotate: tuple[str, ...] = ()


class PkiEngine:
    """Calls of one mount. Each raises as `Vault` does."""

    def __init__(self, vault: Vault, *, mount: str) -> None:
        self.mount = mount
        self.vault = vault
        self._known: dict[str, VaultIssuer] = {}  # a certificate never changes under its issuer's id

    async def issuers(self) -> tuple[VaultIssuer, ...]:
        """All that there are."""
        listed, found = await self._listed(), []
        with self.understood():
            names: Mapping[str, Any] = listed.data.get("key_info") or {}
            for issuer_id in listed.data.get("keys") or ():
                known = self._known.get(issuer_id) or await self._read(issuer_id)
                if known is not None:
                    said = names.get(issuer_id) or {}
                    has_key, name = bool(said.get("key_id", True)), str(said.get("issuer_name") or "")
                    found.append(replace(known, has_key=has_key, name=name))
        self._known = {each.id: each for each in found}
        return tuple(found)

    async def leading(self, reference: str | None) -> str:
        """The id of the issuer that is named so, or else of the default one."""
        try:
            answer = await self.vault.read(f"{self.mount}/issuer/{reference or 'default'}/json")
        except Unavailable as error:
            if error.reason is not Reason.VAULT_REFUSED:  # its word for one that is not there
                raise
            what = f"no issuer {reference}" if reference else "no default issuer"
            fix = "compare upstream.vault.issuer with its issuers" if reference else "give it one, or name one"
            raise Unavailable(
                Reason.VAULT_NOT_FOUND, f"the PKI engine at {self.mount} has {what}: {error.message}", fix=fix
            ) from error
        return str(answer.data.get("issuer_id"))

    async def retired(self, issuer_ids: Collection[str]) -> Mapping[str, bool]:
        """Whether each of these issues nothing any more; nothing of those of which this server may not read that."""
        paths = {each: f"{self.mount}/issuer/{each}" for each in issuer_ids}
        try:
            readable = await self._allowed(paths.values(), "read")
        except Unavailable as error:
            if error.reason is not Reason.VAULT_DENIED:
                raise
            return {}
        usages = {each: await self.vault.read(path) for each, path in paths.items() if path in readable}
        return {each: _ISSUES not in str(said.data.get("usage", _ISSUES)) for each, said in usages.items()}

    async def sign(self, issuer_id: str, parameters: Mapping[str, Any]) -> Issued:
        """Have an authority signed by this issuer."""
        path = f"{self.mount}/issuer/{issuer_id}/sign-intermediate"
        return _issued(await self.vault.write(path, parameters))

    async def make_root(self, parameters: Mapping[str, Any]) -> Issued:
        """Make a root beside the others."""
        return _issued(await self.vault.write(f"{self.mount}/root/rotate/internal", parameters))

    async def make_default(self, issuer_id: str) -> None:
        """Have whoever names no issuer be signed by this one."""
        await self.vault.write(f"{self.mount}/root/replace", {"default": issuer_id})

    async def retire(self, issuer: VaultIssuer) -> None:
        """Have it issue nothing any more; it goes on to sign its revocation lists."""
        # A name that is left out is taken away, and none may be empty.
        words = {"usage": _RETIRED} | ({"issuer_name": issuer.name} if issuer.name else {})
        await self.vault.write(f"{self.mount}/issuer/{issuer.id}", words)

    async def lacking(self, issuer_ids: Collection[str], *, rotates: bool) -> Lacking:
        """What this server may not, of what it needs to have these sign, and to rotate a root."""
        to_sign = {f"{self.mount}/issuer/{each}/sign-intermediate": {"update"} for each in issuer_ids}
        to_rotate: dict[str, set[str]] = {}
        for capability, names in _TO_ROTATE.items() if rotates else ():
            for name in names:
                to_rotate.setdefault(f"{self.mount}/{name}", set()).add(capability)
        try:
            has = await self._capabilities((*to_sign, *to_rotate))
        except Unavailable as error:
            if error.reason is not Reason.VAULT_DENIED:
                raise
            # Whoever may not look may sign nevertheless; but no root is begun that may not come to its end.
            return Lacking(to_rotate=(f"update on {_CAPABILITIES}",) if rotates else ())
        return Lacking(to_sign=_missing(to_sign, has), to_rotate=_missing(to_rotate, has))

    @contextmanager
    def understood(self) -> Iterator[None]:
        """Read what was answered within this. Raises `FailedPrecondition` (`upstream_invalid`)."""
        try:
            yield
        except _ODD as error:
            raise invalid(self.mount, f"answers in a way that is not understood: {error}") from error

    async def _listed(self) -> Answer:
        try:
            return await self.vault.list(f"{self.mount}/issuers")
        except Unavailable as error:
            if error.reason not in (Reason.VAULT_DENIED, Reason.VAULT_NOT_FOUND):
                raise
            # Where the engine is, everybody may list. Where nothing is, whoever may not do all is refused.
            raise Unavailable(
                Reason.VAULT_NOT_FOUND,
                f"there is no PKI engine at {self.mount} in Vault, or it has no issuer",
                fix="compare upstream.vault.mount and vault.namespace with what is there",
            ) from error

    async def _allowed(self, paths: Collection[str], capability: str) -> frozenset[str]:
        has = await self._capabilities(paths)
        return frozenset(path for path in paths if capability in has[path] or "root" in has[path])

    async def _capabilities(self, paths: Collection[str]) -> Mapping[str, Collection[str]]:
        if not paths:
            return {}
        answer = await self.vault.write(_CAPABILITIES, {"paths": list(paths)})
        with self.understood():
            return {path: frozenset(answer.data.get(path) or ()) for path in paths}

    async def _read(self, issuer_id: str) -> VaultIssuer | None:
        try:
            said = (await self.vault.read(f"{self.mount}/issuer/{issuer_id}/json")).data
        except Unavailable as error:
            if error.reason in (Reason.VAULT_NOT_FOUND, Reason.VAULT_REFUSED):  # gone since it was listed
                return None
            raise
        return VaultIssuer(
            id=issuer_id,
            name="",
            certificate=read_pem(said.get("certificate")),
            further=tuple(filter(None, map(read_pem, said.get("ca_chain") or ()))),
        )


def read_pem(text: object) -> x509.Certificate | None:
    """A certificate as Vault says it, or None."""
    try:
        return x509.load_pem_x509_certificate(str(text).encode())
    except UNREADABLE:
        return None


def invalid(mount: str, problem: str, *, fix: str = "") -> FailedPrecondition:
    """That nothing good comes from this engine."""
    return FailedPrecondition(Reason.UPSTREAM_INVALID, f"the PKI engine at {mount} {problem}", fix=fix)


def _missing(needed: Mapping[str, Collection[str]], has: Mapping[str, Collection[str]]) -> tuple[str, ...]:
    return tuple(
        f"{capability} on {path}"
        for path, capabilities in needed.items()
        for capability in sorted(capabilities)
        if not {capability, "root"} & set(has[path])
    )


def _issued(answer: Answer) -> Issued:
    return Issued(certificate=str(answer.data.get("certificate")), warnings=answer.warnings)

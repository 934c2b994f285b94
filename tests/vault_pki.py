"""Servers whose root is in a real OpenBao, and what tests look at in both."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

from cryptography import x509

from ca.settings import ServerSettings
from citadel._wire import admin_pb2, rotation_pb2
from citadel.bundle import TrustBundle
from tests.openbao import OpenBao
from tests.servers import Member, Server, running_server, server_settings

_POLICIES: Final = Path(__file__).parents[1] / "deploy" / "vault"
POLL: Final = "100ms"


def settings_under(
    bao: OpenBao, mount: str, folder: Path, *, token: str = "", sections: Any = None, **named: Any
) -> ServerSettings:
    """Settings of a server whose upstream is the PKI engine at `mount`; `named` are further words of that section."""
    token_file = folder / "vault-token"
    token_file.write_text(token or bao.root.token)
    token_file.chmod(0o600)
    defaults: dict[str, Any] = {
        "vault": bao.section(token_file) | {"timeout": "1s"},
        "upstream": {"vault": {"mount": mount, "poll": POLL} | named},
        "rotation": {"margin": "500ms", "window": "0s"},
        # Who joined here never comes back, and is waited for until its certificate has ended.
        "svids": {"agent_lifetime": "2s", "default_lifetime": "2s", "max_lifetime": "2s"},
    }
    return server_settings(folder, **defaults | (sections or {}))


@asynccontextmanager
async def server_under(bao: OpenBao, mount: str, folder: Path, **words: Any) -> AsyncIterator[Server]:
    """A server with these settings."""
    async with running_server(settings_under(bao, mount, folder, **words)) as server:
        yield server


async def trusted(server: Server) -> set[str]:
    """The names of the roots that the server trusts now, and that it is known by here from now on."""
    own = await server.admin().GetOwnBundle(admin_pb2.GetOwnBundleRequest())
    server.bundle = TrustBundle.from_json(server.bundle.trust_domain, own.json)
    return {each.subject.rfc4514_string() for each in server.bundle.x509_authorities}


async def last_rotation(server: Server) -> rotation_pb2.Rotation:
    """The one that runs, or the last one."""
    return (await server.rotations().GetRotation(rotation_pb2.GetRotationRequest())).rotation


def token_by(bao: OpenBao, policy: str, mount: str) -> str:
    """A token with the policy that is shipped under this name, for `mount`, and nothing else."""
    rules = (_POLICIES / f"{policy}.hcl").read_text().replace('path "pki/', f'path "{mount}/')
    bao.root.sys.create_or_update_policy(mount, rules)
    return bao.token(mount, no_default_policy=True)


def default_of(bao: OpenBao, mount: str) -> str:
    """The name of the issuer that signs by default."""
    read: dict[str, Any] = bao.root.read(f"{mount}/issuer/default")["data"]
    return str(read["issuer_name"])


def usage_of(bao: OpenBao, mount: str, issuer: str) -> set[str]:
    """What an issuer may do."""
    return set(bao.root.read(f"{mount}/issuer/{issuer}")["data"]["usage"].split(","))


def has_ended(server: Server, kind: str, phase: str = "done") -> Callable[[], Awaitable[bool]]:
    """Whether a rotation of this kind was the last one, and has come to this phase."""

    async def look() -> bool:
        last = await last_rotation(server)
        return (last.kind, last.phase) == (kind, phase)

    return look


def has_come_to(server: Server, *phases: str) -> Callable[[], Awaitable[bool]]:
    """Whether the rotation that runs is in one of these phases."""

    async def look() -> bool:
        return (await last_rotation(server)).phase in phases

    return look


def is_told(server: Server, *words: str) -> Callable[[], Awaitable[bool]]:
    """Whether `status` says all of these of the upstream: in what is wrong there, or in its notes."""

    async def look() -> bool:
        upstream = (await server.status()).upstream
        said = " ".join((upstream.reason, upstream.message, *upstream.notes))
        return all(word in said for word in words)

    return look


def is_good(server: Server) -> Callable[[], Awaitable[bool]]:
    """Whether `status` says that all is well with the upstream."""

    async def look() -> bool:
        return (await server.status()).upstream.good

    return look


def trusts(server: Server, *names: str) -> Callable[[], Awaitable[bool]]:
    """Whether it trusts roots of these names, and no other."""

    async def look() -> bool:
        return await trusted(server) == set(names)

    return look


def issuer_of(member: Member) -> x509.Certificate:
    """Who signed its certificate."""
    return x509.load_der_x509_certificate(member.chain[1])


def new_root(bao: OpenBao, mount: str, name: str, **words: Any) -> None:
    """A root beside those that are there, which does not sign by default."""
    usual = {
        "common_name": f"Root {name}",
        "issuer_name": name,
        "key_type": "ec",
        "ttl": "8760h",
        "uri_sans": "spiffe://a.test",
        "exclude_cn_from_sans": True,
    }
    bao.write(f"{mount}/root/rotate/internal", **usual | words)


def delete_issuer_keys(bao: OpenBao, transit: str) -> None:
    """Delete the keys of issuing authorities from this engine, behind the back of whoever signs with them."""
    for name in bao.root.list(f"{transit}/keys")["data"]["keys"]:
        if "-x509-issuer-" in name:
            bao.write(f"{transit}/keys/{name}/config", deletion_allowed=True)
            bao.root.delete(f"{transit}/keys/{name}")


def new_intermediate(bao: OpenBao, mount: str, name: str, *, above: str) -> str:
    """An authority in `mount` that the default issuer of `above` signed, whose certificate comes along. Its id."""
    words = {"common_name": f"Intermediate {name}", "key_type": "ec", "key_bits": 384, "add_basic_constraints": True}
    asked = bao.write(f"{mount}/intermediate/generate/internal", **words)
    signed = bao.write(
        f"{above}/root/sign-intermediate", csr=asked["csr"], common_name=words["common_name"], ttl="4380h"
    )
    chain = "\n".join((signed["certificate"], *signed["ca_chain"]))
    made = bao.write(f"{mount}/intermediate/set-signed", certificate=chain)
    return str(next(issuer for issuer, key in made["mapping"].items() if key))

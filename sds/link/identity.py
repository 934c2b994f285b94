"""The agent's own identity, and the one file in which it survives a crash or a restart.

Key, chain, bundle and addresses stand in one file that is replaced as a whole, so that a crash at any instant leaves an
identity that fits together (invariant 12). The next key is written before it is sent: were the answer lost, the server
might know that key already, and asking again with the same one is always right.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path
from typing import Any, Final

from cryptography.exceptions import UnsupportedAlgorithm

from citadel.bundle import TrustBundle
from citadel.config.files import ensure_private_dir, read_secret_file, write_private
from citadel.config.types import HostPort
from citadel.errors import CitadelError, FailedPrecondition, Reason, Unavailable
from citadel.reserved import is_agent_id
from citadel.spiffe import TrustDomain
from citadel.strict_json import load_object
from citadel.svid import X509Svid, verify_x509_svid
from sds.keep.keys import PrivateKey, load_pem, to_pem

FILE_NAME: Final = "identity.json"
_FORM: Final = 1
_MAX_BYTES: Final = 1 << 20  # what `read_secret_file` takes
_SVID, _KEY, _NEXT_KEY = "svid", "private_key", "next_private_key"
_BUNDLE, _AGENT_API, _BOOTSTRAP = "bundle", "agent_api", "bootstrap"
_POD: Final = "pod"


@dataclass(frozen=True, slots=True, kw_only=True)
class AgentIdentity:
    """Who this agent is (`svid`, `key`), whom it believes (`bundle`) and where its server is.

    `next_key` is the key of a renewal under way, if one is. `pod` is the UID of the pod that showed its token for it,
    where it joined by Kubernetes.
    """

    svid: X509Svid
    key: PrivateKey = field(repr=False)
    next_key: PrivateKey | None = field(default=None, repr=False)
    bundle: TrustBundle
    agent_api: HostPort
    bootstrap: HostPort
    pod: str = ""

    def is_believed_by(self, bundle: TrustBundle, now: datetime) -> bool:
        """Whether `bundle` vouches for the agent's own SVID. Slow: call it off the loop."""
        try:
            verify_x509_svid(self.svid.chain_der, {bundle.trust_domain: bundle}, now)
        except CitadelError:
            return False
        return True


class IdentityFile:
    """`identity.json` in the agent's data folder: 0600 in a 0700 folder. Its methods block on the disk."""

    def __init__(self, data_dir: Path) -> None:
        self.path = data_dir / FILE_NAME

    def load(self, trust_domain: TrustDomain) -> AgentIdentity | None:
        """What was saved last, or None where nothing ever was.

        Raises `InvalidArgument` (`file_unsafe`) when others can touch the file, `FailedPrecondition`
        (`identity_corrupt`) when it does not hold an agent's identity in `trust_domain`.
        """
        ensure_private_dir(self.path.parent)
        if not self.path.exists():
            return None
        data = read_secret_file(self.path)
        try:
            return _parse(data, trust_domain)
        except CitadelError as error:
            raise self._corrupt(error.message) from error
        except (AttributeError, KeyError, TypeError, ValueError, UnsupportedAlgorithm):
            # Without the cause: its message could show a part of a key.
            raise self._corrupt("a field is missing or damaged") from None

    def save(self, identity: AgentIdentity) -> None:
        """Replace what was saved, durably. Raises `Unavailable` (`store_unavailable`) when the disk refuses."""
        try:
            write_private(self.path, _dump(identity))
        except OSError as error:
            message = f"cannot write {self.path}: {error.strerror}"
            raise Unavailable(Reason.STORE_UNAVAILABLE, message, fix="make room on its disk") from error

    def _corrupt(self, problem: str) -> FailedPrecondition:
        return FailedPrecondition(
            Reason.IDENTITY_CORRUPT,
            f"{self.path} does not hold the identity of an agent here: {problem}",
            fix="restore it from a backup, or move it away and join again with a new join string",
        )


class OwnIdentity:
    """The identity as it is now: always what is on disk. Lives on one event loop."""

    def __init__(self, *, current: AgentIdentity, file: IdentityFile) -> None:
        self.current = current
        self._file = file
        self._turn = asyncio.Lock()

    async def change(self, **changes: Any) -> None:
        """Replace these fields, on disk first. Raises `Unavailable` when the disk refuses; then nothing has changed."""
        # Shielded: a write that goes on in its thread after its caller was cancelled must not overtake a later one.
        await asyncio.shield(asyncio.ensure_future(self._change(changes)))

    async def _change(self, changes: Mapping[str, Any]) -> None:
        async with self._turn:  # two writers that read, change and write would lose one change
            changed = replace(self.current, **changes)
            await asyncio.to_thread(self._file.save, changed)
            self.current = changed


def _dump(identity: AgentIdentity) -> bytes:
    content = {
        "form": _FORM,
        _SVID: identity.svid.chain_pem.decode("ascii"),
        _KEY: to_pem(identity.key).decode("ascii"),
        _NEXT_KEY: to_pem(identity.next_key).decode("ascii") if identity.next_key else None,
        _BUNDLE: identity.bundle.to_document(),
        _AGENT_API: str(identity.agent_api),
        _BOOTSTRAP: str(identity.bootstrap),
        _POD: identity.pod,
    }
    return json.dumps(content, indent=1).encode("ascii")


def _parse(data: bytes, trust_domain: TrustDomain) -> AgentIdentity:
    content: dict[str, Any] = load_object(data, max_bytes=_MAX_BYTES, reason=Reason.IDENTITY_CORRUPT)
    if content["form"] != _FORM:
        raise _misfit(f"it is written in form {content['form']!r}, and this version reads form {_FORM}")
    identity = AgentIdentity(
        svid=X509Svid.from_pem(content[_SVID].encode("ascii")),
        key=load_pem(content[_KEY].encode("ascii")),
        next_key=load_pem(content[_NEXT_KEY].encode("ascii")) if content[_NEXT_KEY] is not None else None,
        bundle=TrustBundle.from_document(trust_domain, content[_BUNDLE]),
        agent_api=HostPort.parse(content[_AGENT_API]),
        bootstrap=HostPort.parse(content[_BOOTSTRAP]),
        pod=str(content.get(_POD, "")),  # earlier versions kept none
    )
    spiffe_id = identity.svid.spiffe_id
    if not spiffe_id.is_member_of(trust_domain) or not is_agent_id(spiffe_id):
        raise _misfit(f"{spiffe_id} is not an agent of {trust_domain}")
    if identity.key.public_key() != identity.svid.leaf.public_key():
        raise _misfit("its private key is not that of its certificate")
    return identity


def _misfit(problem: str) -> FailedPrecondition:
    return FailedPrecondition(Reason.IDENTITY_CORRUPT, problem)

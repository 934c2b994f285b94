"""What the server told last of revocations, on disk: a restart must not make revoked peers good again.

Older knowledge is better than none: but for what is lifted, revocations only become more.
"""

from __future__ import annotations

import asyncio
import hashlib
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Final

import structlog
from cryptography.hazmat.primitives.serialization import Encoding
from google.protobuf.message import DecodeError

from citadel._wire import agent_api_pb2 as pb
from citadel._wire import types_pb2
from citadel.bundle import TrustBundle
from citadel.config.files import read_secret_file, write_private
from citadel.errors import CitadelError, InvalidArgument, Reason
from citadel.revocation import RevocationSet
from citadel.revocation_reading import read_revocations
from citadel.spiffe import SpiffeId, TrustDomain
from citadel.tasks import to_its_end
from sds.holdings import HoldingsFeed

FILE_NAME: Final = "revocations"
_FORM: Final = b"citadel revocations 1\n"
# Some millions of certificates; the server sends its lists in one message of 16 MiB at most.
_MAX_BYTES: Final = 1 << 28

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Told:
    """What the server told: its lists, and the identities that are revoked as a whole."""

    lists: RevocationSet
    identities: frozenset[SpiffeId]

    def says_the_same_as(self, other: Told | None) -> bool:
        """Whether writing it again would change nothing."""
        return other is not None and self.lists.version == other.lists.version and self.identities == other.identities


class RevocationFile:
    """`revocations` in the agent's data folder, beside `identity.json`, which would grow too large. Blocks on the disk.

    A line that names the form, a SHA-256 digest, and the message in which the server tells the same. The digest is of
    the trust domain too. It is there because half of such a message can often be read, and would leave somebody out.
    """

    def __init__(self, data_dir: Path, trust_domain: TrustDomain) -> None:
        self.path = data_dir / FILE_NAME
        self._trust_domain = trust_domain

    def load(self, *, bundle: TrustBundle, now: datetime) -> Told | None:
        """What was kept last, judged like what the server sends; None where nothing ever was.

        Raises `InvalidArgument`: `file_unsafe`, or `revocations_malformed` for what cannot be relied on.
        """
        if not self.path.exists():
            return None
        content = read_secret_file(self.path, max_bytes=_MAX_BYTES)
        form, digest, message = content[: len(_FORM)], content[len(_FORM) :][:32], content[len(_FORM) + 32 :]
        if form != _FORM or digest != self._digest(message):
            raise InvalidArgument(Reason.REVOCATIONS_MALFORMED, "the file is damaged, or of another trust domain")
        try:
            told = pb.Update.FromString(message)
        except DecodeError as error:
            raise InvalidArgument(Reason.REVOCATIONS_MALFORMED, "the file cannot be read") from error
        return Told(
            read_revocations(told.revocations, bundle=bundle, now=now),
            frozenset(map(SpiffeId.parse, told.revoked_identities.spiffe_ids)),
        )

    def save(self, told: Told) -> None:
        """Replace what was kept, durably. Raises `OSError` when the disk refuses."""
        message = pb.Update(
            revocations=types_pb2.RevocationSet(
                lists=[
                    types_pb2.RevocationList(issuer=each.issuer.public_bytes(Encoding.DER), crl=each.der)
                    for each in told.lists.lists
                ]
            ),
            revoked_identities=types_pb2.RevokedIdentities(spiffe_ids=sorted(map(str, told.identities))),
        ).SerializeToString()
        write_private(self.path, b"".join((_FORM, self._digest(message), message)))

    def _digest(self, message: bytes) -> bytes:
        digest = hashlib.sha256(self._trust_domain.name.encode("ascii") + b"\n")
        digest.update(message)
        return digest.digest()


class RevocationMemory:
    """Keeps on disk what the holdings of `feed` say of revocations. Lives on one event loop."""

    def __init__(self, *, file: RevocationFile, feed: HoldingsFeed) -> None:
        self._file = file
        self._feed = feed
        self._kept: Told | None = None
        self._turn = asyncio.Lock()

    async def recall(self, *, bundle: TrustBundle, now: datetime) -> None:
        """Publish what was kept before the start. Of a file that is missing or damaged nothing is known."""
        try:
            told = await asyncio.to_thread(self._file.load, bundle=bundle, now=now)
        except (CitadelError, OSError) as error:
            _log.error("what was revoked before the start cannot be read", file=str(self._file.path), error=str(error))
            return
        if told is None:
            _log.info("nothing is kept of what is revoked", file=str(self._file.path))
            return
        self._kept = told
        self._feed.publish(
            replace(
                self._feed.current,
                revocations=told.lists,
                revoked_identities=told.identities,
                recalls_revocations=True,
            )
        )

    async def keep(self) -> None:
        """Write what holds now, unless it is what was written last. A disk that refuses takes nothing from the rest."""
        # To its end: a write that goes on after its caller was cancelled must not overtake a later one.
        await to_its_end(self._keep())

    async def _keep(self) -> None:
        async with self._turn:
            current = self._feed.current
            told = Told(current.revocations, current.revoked_identities)
            if told.says_the_same_as(self._kept):
                return
            try:
                await asyncio.to_thread(self._file.save, told)
            except OSError as error:
                _log.error(
                    "what is revoked cannot be kept: after a restart less is known until the server is heard",
                    file=str(self._file.path),
                    error=error.strerror,
                )
                return
            self._kept = told

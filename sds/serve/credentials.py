"""Credentials of gateways, as far as the streams that ask for them are concerned."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from citadel.entry import Entry
from sds.serve.available import Available
from sds.serve.resource import Resource


@dataclass(frozen=True, slots=True)
class Known:
    """What is known of one credential for one caller: the last that was good, and `why` there is none or no newer one.

    Before anything was heard `is_pending`; what `is_ruled_out` the caller cannot have as things are.
    """

    resource: Resource | None = None
    why: str = ""
    is_pending: bool = False
    is_ruled_out: bool = False


class Credentials(Protocol):
    """Where they come from; `sds.credentials.book` is the one there is."""

    def ask(
        self, holder: asyncio.Event, entry: Entry | None, names: Sequence[str], *, is_known: bool
    ) -> Mapping[str, Known]:
        """What is known of `names` now; they are all that `holder` wants from now on, and it is set at each change.

        `entry` says for whom, None where the caller is no pod; unless that `is_known`, it may yet turn out to be one.
        """
        ...

    def leave(self, holder: asyncio.Event) -> None:
        """It wants nothing any more."""
        ...


class NoCredentials:
    """Fulfils `Credentials` where there are none."""

    def ask(
        self,
        holder: asyncio.Event,  # noqa: ARG002 - the port's form
        entry: Entry | None,  # noqa: ARG002 - as above
        names: Sequence[str],
        *,
        is_known: bool,  # noqa: ARG002 - as above
    ) -> Mapping[str, Known]:
        return dict.fromkeys(names, Known(is_ruled_out=True))

    def leave(self, holder: asyncio.Event) -> None:
        """Nobody was here."""


def with_credentials(available: Available, known: Mapping[str, Known]) -> Available:
    """What a caller may have, with its credentials; what it may have and does not yet is waited for."""
    there = {name: each.resource for name, each in known.items() if each.resource is not None}
    awaited = {name for name, each in known.items() if not each.is_ruled_out}
    return replace(
        available, resources={**available.resources, **there}, awaited=(available.awaited | awaited) - there.keys()
    )

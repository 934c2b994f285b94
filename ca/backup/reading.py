"""Reading a backup: it is believed when all of it was read."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from sqlalchemy.exc import SQLAlchemyError

from ca.backup.format import End, Header, Row, TableHead, read_backup
from ca.backup.keys import KEYS
from ca.backup.making import backup_label
from ca.backup.tables import insert_rows
from ca.backup.versions import is_known
from ca.keys.manager import Sealer
from ca.store.database import Database
from citadel.errors import FailedPrecondition, InvalidArgument, Reason, Unavailable
from citadel.spiffe import TrustDomain

_ROWS_AT_ONCE: Final = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """What a backup says of itself."""

    header: Header
    rows: Mapping[str, int]
    digest: bytes


@dataclass(slots=True)
class _Portion:
    head: TableHead
    rows: list[Row]


async def inspect(path: Path, *, sealer: Sealer, trust_domain: TrustDomain) -> Summary:
    """Read all of a backup and check that it is whole, of this trust domain, and sealed by this key.

    Raises `InvalidArgument` (`backup_malformed`), or `FailedPrecondition`: `restore_refused` for a backup of another
    domain or a later version, `key_unsealable` for one under another key-encryption key; and whatever else `Sealer`
    raises.
    """
    summary, seal = await asyncio.to_thread(_read_through, path, trust_domain)
    if await sealer.open(seal, backup_label(trust_domain)) != summary.digest:
        raise InvalidArgument(Reason.BACKUP_MALFORMED, "the seal is of another backup", fix="use another backup")
    return summary


def _read_through(path: Path, trust_domain: TrustDomain) -> tuple[Summary, bytes]:
    """What it says of itself, and the seal of that."""
    header, end, rows, name = None, None, dict[str, int](), ""
    for item in _items(path):
        match item:
            case Header():
                header = item
                _check_header(item, trust_domain)
            case TableHead():
                name = item.name
                rows.setdefault(name, 0)
            case End():
                end = item
            case _:
                rows[name] += 1
    assert header is not None  # noqa: S101 - `read_backup` gives both, or raises
    assert end is not None  # noqa: S101 - as above
    return Summary(header=header, rows=rows, digest=end.digest), end.seal


async def load(path: Path, summary: Summary, database: Database) -> Mapping[str, bytes]:
    """Fill an empty database with the tables of a backup, bring it up to date, and return the sealed keys.

    Raises as `inspect`, also where the file was changed since.
    """
    await database.migrate(revision=summary.header.schema)
    keys: dict[str, bytes] = {}
    portions = _portions(path, summary)
    async with database.transaction(seconds=None) as connection:
        while (portion := await asyncio.to_thread(next, portions, None)) is not None:
            if portion.head == KEYS:
                keys.update((str(key_id), bytes(sealed)) for key_id, sealed in portion.rows)  # type: ignore[arg-type]  # the kinds of KEYS
                continue
            try:
                await insert_rows(connection, portion.head, portion.rows)
            except SQLAlchemyError as error:
                raise InvalidArgument(
                    Reason.BACKUP_MALFORMED,
                    f"the rows of {portion.head.name!r} do not fit schema {summary.header.schema}",
                    fix="use another backup",
                ) from error
    await database.migrate()
    return keys


def _portions(path: Path, summary: Summary) -> Iterator[_Portion]:
    portion: _Portion | None = None
    for item in _items(path):
        match item:
            case Header():
                continue
            case TableHead():
                if portion is not None:
                    yield portion
                portion = _Portion(item, [])
            case End():
                if item.digest != summary.digest:
                    raise InvalidArgument(Reason.BACKUP_MALFORMED, "the file changed while it was read")
            case _ if portion is not None:
                portion.rows.append(item)
                if len(portion.rows) >= _ROWS_AT_ONCE:
                    yield portion
                    portion = _Portion(portion.head, [])
    if portion is not None:
        yield portion


def _items(path: Path) -> Iterator[Header | TableHead | Row | End]:
    try:
        with path.open("rb") as file:
            yield from read_backup(file)
    except OSError as error:
        raise Unavailable(Reason.BACKUP_MALFORMED, f"{path} cannot be read: {error.strerror}") from error


def _check_header(header: Header, trust_domain: TrustDomain) -> None:
    if header.trust_domain != trust_domain:
        raise FailedPrecondition(
            Reason.RESTORE_REFUSED,
            f"the backup is of {header.trust_domain}, and this server is one of {trust_domain}",
            fix="name the configuration of a server of that trust domain",
        )
    if not is_known(header.schema):
        raise FailedPrecondition(
            Reason.RESTORE_REFUSED,
            f"this version does not know schema {header.schema[:40]}, which Citadel {header.version[:40]} made",
            fix="restore it with the version of Citadel that made it, or a newer one",
        )

"""The form of a backup: lines of JSON, the same whatever database they come from or go to.

    {"citadel-backup": 1, "version": …, "schema": …, "trust_domain": …, "made_at": …, "counters": {…}}
    {"table": "entry", "columns": [["id", "text"], ["revision", "int"], …]}
    ["0b9f…", 3, …]                                       one array for each row; bytes are base64
    {"end": {"rows": 12, "sha256": …, "seal": …}}

`sha256` is over every byte before the last line. `seal` is that digest under the key-encryption key: without that key
nobody can change a backup unnoticed, nor make one. Private keys stand in it as they lie in the store: sealed.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import BinaryIO, Final

from citadel.errors import CitadelError, FailedPrecondition, InvalidArgument, Reason
from citadel.spiffe import TrustDomain

FORMAT: Final = 1
_MARK: Final = "citadel-backup"
_LONGEST_LINE: Final = 16 * 1024 * 1024
_KINDS: Final[Mapping[str, type]] = {"int": int, "text": str, "bool": bool, "bytes": str}

Value = int | str | bool | bytes | None
Row = Sequence[Value]


@dataclass(frozen=True, slots=True, kw_only=True)
class Header:
    """What a backup is of. `schema` is the migration that its tables stand at, `counters` the last row numbers used."""

    version: str
    schema: str
    trust_domain: TrustDomain
    made_at: datetime
    counters: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class TableHead:
    """The name of a table, and the names and kinds (`int`, `text`, `bool`, `bytes`) of its columns."""

    name: str
    columns: tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class End:
    """The last line: how many rows there were, the digest of everything, and that digest sealed."""

    rows: int
    digest: bytes
    seal: bytes


class BackupWriter:
    """Writes one backup. Blocks on the file."""

    def __init__(self, file: BinaryIO, header: Header) -> None:
        self._file = file
        self._digest = hashlib.sha256()
        self._columns: tuple[tuple[str, str], ...] = ()
        self.rows = 0
        self._line(
            {
                _MARK: FORMAT,
                "version": header.version,
                "schema": header.schema,
                "trust_domain": header.trust_domain.name,
                "made_at": header.made_at.isoformat(),
                "counters": dict(header.counters),
            }
        )

    def table(self, head: TableHead) -> None:
        """Begin a table."""
        self._columns = head.columns
        self._line({"table": head.name, "columns": head.columns})

    def extend(self, rows: Sequence[Row]) -> None:
        """Rows of the table that was begun last."""
        for row in rows:
            self._line([base64.b64encode(value).decode() if isinstance(value, bytes) else value for value in row])
        self.rows += len(rows)

    @property
    def digest(self) -> bytes:
        """That of everything so far."""
        return self._digest.digest()

    def end(self, seal: bytes) -> None:
        """The last line; `seal` is the digest, sealed."""
        self._file.write(_end_line(End(rows=self.rows, digest=self.digest, seal=seal)))

    def _line(self, value: object) -> None:
        line = _line_of(value)
        self._digest.update(line)
        self._file.write(line)


def read_backup(file: BinaryIO) -> Iterator[Header | TableHead | Row | End]:
    """A header, tables each with their rows, and the end, which is given only where digest and number are right.

    Raises `InvalidArgument` (`backup_malformed`) that names the line, and `FailedPrecondition` (`restore_refused`) for
    a format of a later version. Blocks on the file.
    """
    digest, rows, head, number = hashlib.sha256(), 0, None, 0
    while line := file.readline(_LONGEST_LINE):
        number += 1
        try:
            value = _parsed(line)
            if number == 1:
                yield _header(value)
            elif isinstance(value, list):
                yield _row(value, head)
                rows += 1
            elif isinstance(value, dict) and "table" in value:
                head = _table(value)
                yield head
            else:
                end = _end(value)
                if line != _end_line(end) or end.digest != digest.digest() or end.rows != rows:
                    raise _malformed(
                        "the digest at its end is not that of its content: the file was damaged or changed"
                    )
                if file.read(1):
                    raise _malformed("something follows after its end")
                yield end
                return
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise _malformed(f"line {number} is not one of a backup") from error
        except CitadelError as error:
            if error.reason is Reason.TRUST_DOMAIN_MALFORMED:
                raise _malformed(f"line {number}: {error.message}") from error
            raise
        digest.update(line)
    raise _malformed("the file is empty" if number == 0 else f"the file is cut off after line {number}")


def _parsed(line: bytes) -> object:
    if not line.endswith(b"\n"):
        raise ValueError("a line that does not end")
    return json.loads(line.decode("ascii"))


def _header(value: object) -> Header:
    if not isinstance(value, dict) or _MARK not in value:
        raise _malformed("this is not a backup of Citadel")
    if value[_MARK] != FORMAT:
        raise FailedPrecondition(
            Reason.RESTORE_REFUSED,
            f"the backup has format {str(value[_MARK])[:20]}, and this version knows {FORMAT}",
            fix="restore it with the version of Citadel that made it, or a newer one",
        )
    made_at = datetime.fromisoformat(value["made_at"])
    if made_at.utcoffset() is None:
        raise ValueError("a time without offset")
    return Header(
        version=str(value["version"]),
        schema=str(value["schema"]),
        trust_domain=TrustDomain(value["trust_domain"]),
        made_at=made_at,
        counters={str(name): int(last) for name, last in value["counters"].items()},
    )


def _table(value: dict[str, object]) -> TableHead:
    columns = value["columns"]
    if not isinstance(columns, list):
        raise TypeError("no columns")
    pairs = tuple((str(name), str(kind)) for name, kind in columns)
    if not all(kind in _KINDS for _, kind in pairs):
        raise ValueError("a kind of column that nobody knows")
    return TableHead(str(value["table"]), pairs)


def _row(values: list[object], head: TableHead | None) -> Row:
    if head is None or len(values) != len(head.columns):
        raise ValueError("a row of another table")
    return [_value(value, kind) for value, (_, kind) in zip(values, head.columns, strict=True)]


def _value(value: object, kind: str) -> Value:
    if value is None:
        return None
    if type(value) is not _KINDS[kind]:  # not isinstance: True is an int
        raise TypeError("a value of another kind")
    if kind == "bytes":
        return base64.b64decode(str(value), validate=True)
    assert isinstance(value, int | str)  # noqa: S101 - what `_KINDS` says, for type checkers
    return value


def _end(value: object) -> End:
    if not isinstance(value, dict):
        raise TypeError("no end")
    end = value["end"]
    try:
        return End(
            rows=int(end["rows"]),
            digest=bytes.fromhex(end["sha256"]),
            seal=base64.b64decode(end["seal"], validate=True),
        )
    except binascii.Error as error:
        raise ValueError("not base64") from error


def _end_line(end: End) -> bytes:
    # The one line for this end: what is not under the digest has one form and no other.
    seal = base64.b64encode(end.seal).decode()
    return _line_of({"end": {"rows": end.rows, "sha256": end.digest.hex(), "seal": seal}})


def _line_of(value: object) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode() + b"\n"


def _malformed(problem: str) -> InvalidArgument:
    return InvalidArgument(Reason.BACKUP_MALFORMED, problem, fix="use another backup")

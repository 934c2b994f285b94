"""`citadel-cli backup` and `citadel-cli restore`: all that a server keeps, into one file and back."""

from __future__ import annotations

import asyncio
import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Final

import click
from grpc import aio

from ca.settings import ServerSettings
from citadel._wire import backup_pb2
from citadel._wire.backup_pb2_grpc import BackupStub
from citadel.config.loader import load
from citadel.errors import AlreadyExists, Reason, Unavailable
from cli.admin.invocation import Invocation, admin_command
from cli.admin.tables import moment, moment_and_distance
from cli.output import Form, echo, print_json

if TYPE_CHECKING:
    from ca.backup.reading import Summary  # SQLAlchemy is imported only where it is needed

_SECONDS: Final = 3600.0
_MEGABYTE: Final = 1024 * 1024
_FILE: Final = click.Path(path_type=Path, dir_okay=False)


@admin_command("backup", example="citadel-cli backup /var/backups/citadel-2026-01-31.backup")
@click.argument("file", metavar="FILE", type=_FILE)
@click.option("--config", "-c", "config", type=_FILE, help="Settings of a server that does not run now.")
@click.option("--force", is_flag=True, help="Replace FILE where it exists.")
def backup_command(invocation: Invocation, *, file: Path, config: Path | None, force: bool) -> None:
    """Copy all that the server keeps into FILE, while it runs, or with --config while it does not.

    Private keys are in it as they lie in the store: sealed with the key-encryption key, or with one in Vault, which is
    not in it. Keep that elsewhere: without it the backup is worth nothing. Keys that were made in Vault stay there.
    """
    if file.exists() and not force:
        raise AlreadyExists(Reason.BACKUP_MALFORMED, f"{file} exists already", fix="name another file, or add --force")
    with _written(file) as target:
        if config is None:
            invocation.ask_service(lambda channel: _receive(channel, target))
        else:
            from cli.server_backup import backup_offline  # noqa: PLC0415 - other commands start without SQLAlchemy

            asyncio.run(backup_offline(load(config, ServerSettings), target, clock=invocation.clock))
        size = target.tell()
    if invocation.form is Form.JSON:
        print_json({"file": str(file), "bytes": size})
    else:
        echo(f"wrote {file}, {_megabytes(size)}; it is of no use without the key that seals, which is not in it")


@admin_command("restore", example="citadel-cli restore citadel-2026-01-31.backup --config /etc/citadel/server.yaml")
@click.argument("file", metavar="FILE", type=_FILE)
@click.option("--config", "-c", "config", type=_FILE, required=True, help="Settings of the server, which does not run.")
@click.option("--replace", is_flag=True, help="Lose what the store holds now.")
@click.option("--yes", is_flag=True, help="Do not ask.")
def restore_command(invocation: Invocation, *, file: Path, config: Path, replace: bool, yes: bool) -> None:
    """Put a backup into the store of a stopped server: all of it, or nothing.

    Agents that joined or renewed their identity since the backup must join again; join tokens of before are void.
    """
    from cli.server_backup import inspect_backup, restore_backup  # noqa: PLC0415 - as above

    settings = load(config, ServerSettings)
    summary = asyncio.run(inspect_backup(settings, file, clock=invocation.clock))
    if replace and not yes:
        click.echo(_described(summary, invocation), err=True)
        click.confirm(f"Replace all that the server of {settings.data_dir} holds?", abort=True, err=True)
    done = asyncio.run(restore_backup(settings, file, summary, replace=replace, clock=invocation.clock))
    if invocation.form is Form.JSON:
        gap = {"begin": done.gap_from.isoformat(), "end": done.gap_to.isoformat()}
        print_json({"file": str(file), "rows": done.rows, "ledger_gap": gap, "keys_in_vault": done.keys_in_vault})
        return
    echo(f"restored {done.rows} rows of the backup of {moment(done.gap_from)}")
    echo(f"certificates issued from then until {moment(done.gap_to)} are not in the ledger; the audit log says so")
    if done.keys_in_vault:
        echo(
            f"{done.keys_in_vault} keys of authorities are in Vault, and not in the backup: the server needs that Vault"
        )


def _described(summary: Summary, invocation: Invocation) -> str:
    made = moment_and_distance(summary.header.made_at, invocation.clock.now())
    rows = ", ".join(f"{count} {name}" for name, count in sorted(summary.rows.items()) if count)
    return f"backup of {summary.header.trust_domain}, made {made}: {rows}"


async def _receive(channel: aio.Channel, target: BinaryIO) -> None:
    call = BackupStub(channel).MakeBackup(backup_pb2.MakeBackupRequest(), timeout=_SECONDS)
    shows = sys.stderr.isatty()
    async for part in call:
        await asyncio.to_thread(target.write, part.data)
        if shows:
            click.echo(f"\r{_megabytes(target.tell())}", err=True, nl=False)
    if shows:
        click.echo("\r", err=True, nl=False)


@contextmanager
def _written(path: Path) -> Iterator[BinaryIO]:
    """A file of mode 0600 that gets its name when all of it is on the disk."""
    try:
        descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".unfinished")
        unfinished = Path(name)
        try:
            with os.fdopen(descriptor, "wb") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            unfinished.replace(path)
        except BaseException:
            unfinished.unlink(missing_ok=True)
            raise
        folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
    except OSError as error:
        raise Unavailable(Reason.STORE_UNAVAILABLE, f"{path} cannot be written: {error.strerror}") from error


def _megabytes(size: int) -> str:
    return f"{size / _MEGABYTE:.1f} MiB"

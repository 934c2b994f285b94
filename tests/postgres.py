"""A real PostgreSQL for tests, which they may stop, kill and start again."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from itertools import count
from pathlib import Path
from typing import Final

from tests.ports import free_port

# Found without importing it: the import makes folders in the user's home.
_BINARIES: Final = Path(find_spec("pgserver").submodule_search_locations[0]) / "pginstall" / "bin"
# Nothing here must survive a power cut, and many databases are made.
_SETTINGS: Final = ("fsync=off", "full_page_writes=off", "autovacuum=off", "max_connections=60", "shared_buffers=16MB")
_READY_SECONDS: Final = 30
# Nothing of ours: a test's name, which pytest puts there, can be longer than a program takes.
_ENVIRONMENT: Final = {"PATH": os.environ["PATH"], "LC_ALL": "C"}


class Postgres:
    """One PostgreSQL server on a loopback port, with a superuser `citadel` who needs no password.

    PostgreSQL refuses to run as root, so root starts it as `nobody`.
    """

    def __init__(self, folder: Path) -> None:
        self._data = folder / "data"
        self._log = folder / "log"
        # Not by `subprocess`, which would fork for it, and gRPC's handlers of a fork can end the child.
        self._become = ("setpriv", "--reuid=nobody", "--clear-groups") if os.geteuid() == 0 else ()
        self._numbers = count(1)
        self._port = free_port()
        self._binaries = _BINARIES
        if self._become:
            self._binaries = _copied_to(folder)  # the checkout may lie where `nobody` cannot go
            shutil.chown(folder, "nobody")
        options = ("--username=citadel", "--auth=trust", "--encoding=utf8", "--no-sync")
        _output([*self._become, *_at(self._binaries, "initdb", "--pgdata", self._data, *options)])

    def url(self, database: str) -> str:
        return f"postgresql://citadel@127.0.0.1:{self._port}/{database}"

    def create_database(self, *, template: str = "template0") -> str:
        """A new database, a copy of `template`; returns its URL."""
        name = f"test_{next(self._numbers)}"
        self.query("postgres", f"CREATE DATABASE {name} TEMPLATE {template}")
        return self.url(name)

    def query(self, database: str, statement: str) -> list[str]:
        """The rows of a statement, as psql prints them."""
        return query(self.url(database), statement)

    def start(self) -> None:
        settings = " ".join(f"-c {setting}" for setting in _SETTINGS)
        options = f"-h 127.0.0.1 -p {self._port} -c unix_socket_directories= {settings}"
        self._control("start", "--log", str(self._log), "--options", options)

    def stop(self, *, kill: bool = False) -> None:
        """Stop it. `kill` is what a crash does: every session is cut, and the next start recovers."""
        self._control("stop", "--mode", "immediate" if kill else "fast")

    def _control(self, what: str, *arguments: str) -> None:
        # `pg_ctl` hands its pipes on to the server, which would keep them open: so it gets none.
        command = ("pg_ctl", what, "--wait", "--timeout", str(_READY_SECONDS), "--pgdata", self._data, *arguments)
        subprocess.run(
            [*self._become, *_at(self._binaries, *command)],
            check=True,
            env=_ENVIRONMENT,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )


def _at(binaries: Path, program: str, *arguments: str | Path) -> tuple[str | Path, ...]:
    return (binaries / program, *arguments)


def _copied_to(folder: Path) -> Path:
    """The binaries in `folder`, with the libraries that they look for beside their package."""
    package = _BINARIES.parents[1]
    for name in (package.name, f"{package.name}.libs"):
        shutil.copytree(package.with_name(name), folder / name)
    return folder / _BINARIES.relative_to(package.parent)


def _output(command: Sequence[str | Path]) -> str:
    done = subprocess.run(command, check=False, env=_ENVIRONMENT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def query(url: str, statement: str) -> list[str]:
    """The rows of a statement, as psql prints them."""
    options = ("--no-psqlrc", "--tuples-only", "--no-align", "--quiet")
    return _output(_at(_BINARIES, "psql", *options, "-c", statement, url)).splitlines()


@contextmanager
def running_postgres() -> Iterator[Postgres]:
    """A PostgreSQL of one's own, until the block ends."""
    # Not in pytest's own folder, which `nobody` may not enter.
    folder = Path(tempfile.mkdtemp(prefix="citadel-postgres-"))
    postgres = Postgres(folder)
    postgres.start()
    try:
        yield postgres
    finally:
        postgres.stop(kill=True)
        shutil.rmtree(folder)

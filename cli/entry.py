"""Where both programs begin, before anything heavy is imported."""

from __future__ import annotations

import os
import sys
from importlib import import_module


def citadel() -> None:
    """The program `citadel`."""
    begin()
    from cli.citadel import main  # noqa: PLC0415 - after the environment is set

    main()


def citadel_cli() -> None:
    """The program `citadel-cli`."""
    begin()
    from cli.citadel_cli import main  # noqa: PLC0415 - after the environment is set

    main()


def begin() -> None:
    """What holds in each process of Citadel, and has to come first."""
    _quiet_grpc()
    _plain_structlog()


def _quiet_grpc() -> None:
    # gRPC's core writes a line of its own for each failed handshake, past every log setting; it reads this once, when
    # it is imported. What went wrong is told by Citadel, once.
    os.environ.setdefault("GRPC_VERBOSITY", "ERROR")


def _plain_structlog() -> None:
    # Where rich is installed structlog imports it, for tracebacks with local variables. Those can be keys and are never
    # printed here, and a server or an agent would hold 4 MiB for it. Commands that draw tables import it nevertheless.
    if "rich" not in sys.modules:
        sys.modules["rich"] = None  # type: ignore[assignment]  # Python's own way to say that there is none
        import_module("structlog")
        del sys.modules["rich"]


if __name__ == "__main__":
    citadel()

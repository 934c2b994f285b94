"""Where both programs begin, before anything heavy is imported."""

from __future__ import annotations

import os


def citadel() -> None:
    """The program `citadel`."""
    _quiet_grpc()
    from cli.citadel import main  # noqa: PLC0415 - after the environment is set

    main()


def citadel_cli() -> None:
    """The program `citadel-cli`."""
    _quiet_grpc()
    from cli.citadel_cli import main  # noqa: PLC0415 - after the environment is set

    main()


def _quiet_grpc() -> None:
    # gRPC's core writes a line of its own for each failed handshake, past every log setting; it reads this once, when
    # it is imported. What went wrong is told by Citadel, once.
    os.environ.setdefault("GRPC_VERBOSITY", "ERROR")


if __name__ == "__main__":
    citadel()

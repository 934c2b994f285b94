"""`citadel demo`."""

from __future__ import annotations

import asyncio
import os
import shutil
import tempfile
from collections.abc import Awaitable, Callable
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import click

from citadel.errors import FailedPrecondition, Reason
from citadel.extras import installing
from cli.demo.plan import Ending, make_plan
from cli.output import EXIT_INTERRUPTED
from cli.signals import run_until_signal

if TYPE_CHECKING:
    from cli.demo.screen import Screen  # needs the extra


@click.command()
@click.option(
    "--requests", default=600, show_default=True, type=click.IntRange(min=1), help="Least number of requests."
)
@click.option(
    "--pace", default=40.0, show_default=True, type=click.FloatRange(min=1, max=200), help="Requests a second."
)
@click.option("--leaf-seconds", default=8, show_default=True, type=click.IntRange(min=4), help="Life of a certificate.")
@click.option("--most-seconds", default=55.0, show_default=True, help="When to give up.")
@click.option("--keep", is_flag=True, help="Leave everything running afterwards, until Ctrl-C.")
@click.option("--vault", is_flag=True, help="With the root in a real OpenBao, where it is rotated too.")
@click.pass_context
def demo(
    context: click.Context,
    *,
    requests: int,
    pace: float,
    leaf_seconds: int,
    most_seconds: float,
    keep: bool,
    vault: bool,
) -> None:
    """Run the main job on this machine: a server, an agent, and two services behind real Envoys.

    Example: citadel demo --keep
    """
    run_demo, screen = _import_the_rest(vault=vault)
    folder = Path(tempfile.mkdtemp(prefix="citadel-demo-"))
    folder.chmod(0o755)  # sidecars of other users start from here; what is secret lies in folders of its own
    plan = make_plan(
        folder=folder,
        requests=requests,
        leaf_lifetime=timedelta(seconds=leaf_seconds),
        pace=pace,
        most_seconds=most_seconds,
        keep=keep,
        as_root=os.geteuid() == 0,
        vault=vault,
    )
    ending = Ending.INTERRUPTED

    async def body(stop: asyncio.Event) -> None:
        nonlocal ending
        with screen:
            ending = await run_demo(plan, screen, stop=stop)

    with suppress(KeyboardInterrupt):  # a second Ctrl-C, which does not wait for the demo to end in order
        run_until_signal(body)
    if ending is Ending.BROKEN:
        click.echo(f"the logs are in {folder}", err=True)
        context.exit(1)
    shutil.rmtree(folder)
    if ending is Ending.INTERRUPTED:
        click.echo("interrupted", err=True)
        context.exit(EXIT_INTERRUPTED)


def _import_the_rest(*, vault: bool) -> tuple[Callable[..., Awaitable[Ending]], Screen]:
    """What needs the packages of the extra `demo`. Raises `FailedPrecondition` where one is missing."""
    try:
        from rich.console import Console  # noqa: PLC0415 - servers and agents do without it

        from cli.demo.envoy import find_binary  # noqa: PLC0415 - `citadel` itself works without the extra
        from cli.demo.run import run_demo  # noqa: PLC0415 - as above
        from cli.demo.screen import Screen  # noqa: PLC0415 - as above
        from cli.demo.vault import find_openbao  # noqa: PLC0415 - as above
    except ModuleNotFoundError as error:
        raise FailedPrecondition(
            Reason.CONFIG_INVALID, f"the package {error.name} is not installed", fix=installing("demo")
        ) from error
    find_binary()
    if vault:
        find_openbao()
    return run_demo, Screen(Console())

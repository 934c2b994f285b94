"""`citadel demo`."""

from __future__ import annotations

import asyncio
import os
import shutil
import tempfile
from datetime import timedelta
from pathlib import Path

import click
from rich.console import Console

from cli.demo.plan import make_plan
from cli.demo.run import run_demo
from cli.demo.screen import Screen
from cli.signals import run_until_signal


@click.command()
@click.option(
    "--requests", default=600, show_default=True, type=click.IntRange(min=1), help="Least number of requests."
)
@click.option("--pace", default=40.0, show_default=True, help="Requests a second.")
@click.option("--leaf-seconds", default=8, show_default=True, type=click.IntRange(min=4), help="Life of a certificate.")
@click.option("--most-seconds", default=55.0, show_default=True, help="When to give up.")
@click.option("--keep", is_flag=True, help="Leave everything running afterwards, until Ctrl-C.")
@click.pass_context
def demo(
    context: click.Context, requests: int, pace: float, leaf_seconds: int, most_seconds: float, *, keep: bool
) -> None:
    """Run the main job on this machine: a server, an agent, and two services behind real Envoys.

    Example: citadel demo --keep
    """
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
    )
    good = False

    async def body(stop: asyncio.Event) -> None:
        nonlocal good
        with Screen(Console()) as screen:
            good = await run_demo(plan, screen, stop=stop)

    run_until_signal(body)
    if not good:
        click.echo(f"the logs are in {folder}", err=True)
        context.exit(1)
    shutil.rmtree(folder)

"""Shell completion, as a command of both programs."""

from __future__ import annotations

from typing import Final

import click
from click.shell_completion import get_completion_class

_SHELLS: Final = ("bash", "zsh", "fish")


def completion_command(program: click.Group, name: str) -> click.Command:
    """The command `completion` of `program`, which is called `name` on the command line."""

    @click.command("completion", epilog=f"\b\nExample:\n  {name} completion bash > /etc/bash_completion.d/{name}")
    @click.argument("shell", type=click.Choice(_SHELLS))
    def completion(shell: str) -> None:
        """Print the script that completes commands and options in SHELL."""
        variable = f"_{name}_COMPLETE".replace("-", "_").upper()  # the one that click looks for in the environment
        made = get_completion_class(shell)
        if made is None:  # the choices are those that click has
            raise click.BadParameter(f"there is no completion for {shell}")
        click.echo(made(program, {}, name, variable).source())

    return completion

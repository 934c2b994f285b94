"""The documents say what the code does: every reason explained, every link good, every command one that exists."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Final

import click
import pytest

from citadel.errors import Reason
from cli.citadel import main as citadel
from cli.citadel_cli import citadel_cli

_ROOT: Final = Path(__file__).resolve().parents[2]
_README: Final = _ROOT / "README.md"
_DOCUMENTS: Final = [_README, *sorted((_ROOT / "docs").rglob("*.md"))]
_DECISIONS: Final = sorted((_ROOT / "docs" / "decisions").iterdir())
_PROGRAMS: Final = {"citadel": citadel, "citadel-cli": citadel_cli}

_CODE_BLOCK: Final = re.compile(r"^```\w*\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_INLINE_CODE: Final = re.compile(r"`[^`\n]*`")
_LINK: Final = re.compile(r"\]\(([^)\s]+)\)")
_REASON_ROW: Final = re.compile(r"^\| `([a-z_]+)` \|", re.MULTILINE)


def _reasons(text: str) -> list[str]:
    return _REASON_ROW.findall(text)


def _links(text: str) -> list[str]:
    """The targets of the links that stay inside the repository, without their anchors."""
    plain = _INLINE_CODE.sub("", _CODE_BLOCK.sub("", text))
    targets = [target.partition("#")[0] for target in _LINK.findall(plain) if "://" not in target]
    return [target for target in targets if target]


def _commands(text: str) -> list[str]:
    """The calls of our programs in the code blocks, one string each, as a shell would read them."""
    lines = "\n".join(_CODE_BLOCK.findall(text)).replace("\\\n", " ").splitlines()
    return [command for line in lines for command in _calls(line)]


def _calls(line: str) -> list[str]:
    lexer = shlex.shlex(line, posix=True, punctuation_chars=True)
    lexer.whitespace_split = True
    calls: list[list[str]] = [[]]
    for word in lexer:
        if set(word) <= set("();&|<>"):
            calls.append([])  # what follows is another command, or a file's name
        else:
            calls[-1].append(word)
    return [shlex.join(call) for call in calls if call and call[0] in _PROGRAMS]


def _parse(command: str) -> None:
    """Parse a command to its last argument without running it. Raises what click, or a parameter's type, refuses."""
    name, *words = shlex.split(command)
    current: click.Command = _PROGRAMS[name]
    parent: click.Context | None = None
    while True:
        with current.make_context(name, list(words), parent=parent, obj=_NoInvocation()) as context:
            if not isinstance(current, click.Group):
                return
            found, following, words = current.resolve_command(context, [*context.protected_args, *context.args])
            assert found is not None
            assert following is not None
            name, current, parent = following, found, context


def test_every_reason_is_explained_once_and_nothing_else_is() -> None:
    explained = _reasons((_ROOT / "docs" / "reasons.md").read_text("utf-8"))
    assert explained == [reason.value for reason in Reason], "docs/reasons.md has another list, or another order"

"""The documents say what the code does: every reason explained, every link good, every command one that exists."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import click
import pytest

from citadel.errors import CitadelError, Reason
from cli.admin.invocation import Invocation
from cli.citadel import main as citadel
from cli.citadel_cli import citadel_cli
from cli.output import Form
from tests.clock import FakeClock

_ROOT: Final = Path(__file__).resolve().parents[2]
_README: Final = _ROOT / "README.md"
_REASONS: Final = _ROOT / "docs" / "reasons.md"
_CLUSTERS: Final = _ROOT / "deploy" / "multicluster" / "README.md"
_VAULT: Final = _ROOT / "docs" / "vault.md"
_KUBERNETES: Final = [
    _ROOT / "docs" / "kubernetes.md",
    *(_ROOT / "deploy" / name / "README.md" for name in ("helm", "kubernetes", "eks", "istio", "bookinfo")),
]
_DOCUMENTS: Final = [
    _README,
    _CLUSTERS,
    *_KUBERNETES[1:],
    _ROOT / "deploy" / "vault" / "README.md",
    *sorted((_ROOT / "docs").rglob("*.md")),
]
_DECISIONS: Final = sorted((_ROOT / "docs" / "decisions").iterdir())
_PROGRAMS: Final[Mapping[str, click.Group]] = {"citadel": citadel, "citadel-cli": citadel_cli}

_CODE_BLOCK: Final = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_INLINE_CODE: Final = re.compile(r"`([^`\n]+)`")
_LINK: Final = re.compile(r"\]\(([^)\s]+)\)")
_REASON_ROW: Final = re.compile(r"^\| `(\w+)` \|(.*)\|$", re.MULTILINE)
_DECISION: Final = re.compile(r"(\d{4})-[a-z0-9-]+\.md")


def _name(path: Path) -> str:
    return str(path.relative_to(_ROOT))


def test_every_reason_is_explained_once_and_nothing_else_is() -> None:
    rows = _REASON_ROW.findall(_REASONS.read_text("utf-8"))
    assert [reason for reason, _ in rows] == [reason.value for reason in Reason]  # in the order of citadel/errors.py
    assert [reason for reason, row in rows if row.count("|") != 2] == []  # who says it, what it means, what to do


@pytest.mark.parametrize("document", _DOCUMENTS, ids=_name)
def test_relative_links_lead_somewhere(document: Path) -> None:
    prose = _INLINE_CODE.sub("", _CODE_BLOCK.sub("", document.read_text("utf-8")))
    targets = [link.partition("#")[0] for link in _LINK.findall(prose) if not re.match(r"https?:|mailto:", link)]
    assert [target for target in targets if not (document.parent / target).exists()] == []


def test_each_decision_has_a_number_of_its_own() -> None:
    named = {path.name: _DECISION.fullmatch(path.name) for path in _DECISIONS}
    assert [name for name, found in named.items() if found is None] == []
    assert len({found[1] for found in named.values() if found}) == len(named)


@pytest.mark.parametrize("decision", _DECISIONS, ids=_name)
def test_a_decision_says_what_and_why_under_its_number(decision: Path) -> None:
    text = decision.read_text("utf-8")
    assert text.startswith(f"# {int(decision.name[:4])}. ")
    assert [text.count(section) for section in ("\n**Decision.** ", "\n**Why.** ")] == [1, 1]


def _calls(line: str) -> list[str]:
    """The calls of our programs in one line for a shell."""
    lexer = shlex.shlex(line, posix=True, punctuation_chars=True)
    lexer.whitespace_split = True
    calls: list[list[str]] = [[]]
    for word in lexer:
        if set(word) <= set("();&|<>") or word == "--":
            calls.append([])  # what follows is another command, as after that of kubectl exec, or the name of a file
        else:
            calls[-1].append(word)
    return [shlex.join(call) for call in calls if call and call[0] in _PROGRAMS]


def _calls_in_blocks(document: Path) -> list[str]:
    blocks = [body for language, body in _CODE_BLOCK.findall(document.read_text("utf-8")) if language == "sh"]
    lines = "\n".join(blocks).replace("\\\n", " ").splitlines()
    return [call for line in lines for call in _calls(line)]


def _calls_in_reasons() -> list[str]:
    return [
        code for code in _INLINE_CODE.findall(_REASONS.read_text("utf-8")) if re.match(r"citadel(-cli)? [a-z]", code)
    ]


def _parse(call: str) -> None:
    """Parse a call down to its last option without running it. Raises what click, or the type of a value, refuses."""
    name, *words = shlex.split(call)
    command: click.Command = _PROGRAMS[name]
    context: click.Context | None = None
    given = Invocation(socket=Path("/nowhere"), form=Form.TABLE, clock=FakeClock())
    while True:
        context = command.make_context(name, list(words), parent=context, obj=given)
        if not isinstance(command, click.Group):
            return
        _, rest, _ = command.make_parser(context).parse_args(list(words))
        found, following, words = command.resolve_command(context, rest)
        assert found is not None
        assert following is not None
        name, command = found, following


@pytest.mark.parametrize(
    "call",
    dict.fromkeys(
        [
            *(call for each in (_README, _CLUSTERS, _VAULT, *_KUBERNETES) for call in _calls_in_blocks(each)),
            *_calls_in_reasons(),
        ]
    ),
)
def test_documented_commands_parse(call: str) -> None:
    _parse(call)


def test_commands_are_found_in_each_document() -> None:
    for calls in (_calls_in_blocks(_README), _calls_in_reasons()):
        assert {call.split()[0] for call in calls} == set(_PROGRAMS)
    assert {"root", "federation", "bundle", "entry", "trust"} <= {
        call.split()[1] for call in _calls_in_blocks(_CLUSTERS)
    }


@pytest.mark.parametrize(
    ("line", "calls"),
    [
        ("citadel server run -c a.yaml &", ["citadel server run -c a.yaml"]),
        ("(umask 077; citadel-cli token create > join)  # once", ["citadel-cli token create"]),
        ("citadel-cli bundle show | citadel-cli status", ["citadel-cli bundle show", "citadel-cli status"]),
        ("citadel-cli entry create --hint 'a; b'", ["citadel-cli entry create --hint 'a; b'"]),
        ("kubectl exec deployment/citadel -c server -- citadel-cli status", ["citadel-cli status"]),
        ("mkdir -p /etc/citadel  # citadel server run", []),
    ],
)
def test_calls_are_read_as_a_shell_reads_them(line: str, calls: list[str]) -> None:
    assert _calls(line) == calls


@pytest.mark.parametrize(
    "call",
    [
        "citadel sever run -c a.yaml",
        "citadel server",
        "citadel server run",
        "citadel server run --conf a.yaml --no-such-option",
        "citadel agent run -c a.yaml extra",
        "citadel-cli --no-such-option status",
        "citadel-cli entry create --parent-id spiffe://a.test/b --selector unix:uid:1",
        "citadel-cli entry create --spiffe-id http://a.test/b",
        "citadel-cli token create --ttl soon",
    ],
)
def test_a_command_that_does_not_exist_would_be_noticed(call: str) -> None:
    with pytest.raises((click.UsageError, CitadelError)):
        _parse(call)

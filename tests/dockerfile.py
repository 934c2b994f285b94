"""The Dockerfile as a list of instructions, by stage."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parents[1]


@dataclass(frozen=True, slots=True)
class Instruction:
    """One instruction, its lines joined."""

    name: str
    text: str


def stages() -> list[list[Instruction]]:
    """Each stage begins with its FROM."""
    found: list[list[Instruction]] = []
    arguments: dict[str, str] = {}  # of all stages
    lines = [each for each in (ROOT / "Dockerfile").read_text().splitlines() if each and not each.startswith("#")]
    for line in "\n".join(lines).replace("\\\n", "").splitlines():
        name, _, text = line.partition(" ")
        if name == "ARG" and not found:
            argument, _, value = text.partition("=")
            arguments["${" + argument + "}"] = value
            continue
        if name == "FROM":
            for argument, value in arguments.items():
                text = text.replace(argument, value)
            found.append([])
        found[-1].append(Instruction(name, " ".join(text.split())))
    return found


def texts(stage: list[Instruction], name: str) -> list[str]:
    """What the instructions of this name say."""
    return [each.text for each in stage if each.name == name]

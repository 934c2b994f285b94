"""The settings files that ship name every key, each with its default and its meaning."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from ca.settings import ServerSettings
from citadel.config.loader import load
from citadel.config.types import Settings
from sds.settings import AgentSettings

DEPLOY = Path(__file__).parents[3] / "deploy"
SHIPPED = [("server.yaml", ServerSettings), ("agent.yaml", AgentSettings)]


def keys_of(model: type[Settings]) -> dict[str, Any]:
    sections = {
        name: field.annotation
        for name, field in model.model_fields.items()
        if isinstance(field.annotation, type) and issubclass(field.annotation, Settings)
    }
    return {name: keys_of(sections[name]) if name in sections else None for name in model.model_fields}


def keys_in(document: object) -> object:
    return {key: keys_in(value) for key, value in document.items()} if isinstance(document, dict) else None


def assert_defaults(settings: Settings) -> None:
    for name, field in type(settings).model_fields.items():
        value = getattr(settings, name)
        if not field.is_required():
            assert value == field.get_default(), name
        elif isinstance(value, Settings):
            assert type(value).model_fields.keys() == value.model_fields_set


@pytest.mark.parametrize(("name", "model"), SHIPPED)
def test_it_has_every_key(name: str, model: type[Settings]) -> None:
    assert keys_in(yaml.safe_load((DEPLOY / name).read_text())) == keys_of(model)


@pytest.mark.parametrize(("name", "model"), SHIPPED)
def test_it_says_the_defaults(name: str, model: type[Settings]) -> None:
    assert_defaults(load(DEPLOY / name, model))


@pytest.mark.parametrize("name", [name for name, _ in SHIPPED])
def test_each_setting_has_a_line_that_explains_it(name: str) -> None:
    lines = (DEPLOY / name).read_text().splitlines()
    unexplained = [
        line
        for before, line in zip(["", *lines], lines, strict=False)
        if ":" in line and not line.lstrip().startswith("#") and not line.endswith(":") and "# " not in before
    ]
    assert unexplained == []

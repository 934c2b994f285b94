"""`citadel-cli trust verify` of files and folders: what it reads, how it answers, how it ends."""

from __future__ import annotations

import json
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from citadel._wire import trust_pb2, types_pb2
from citadel.spiffe import TrustDomain
from citadel.wire import to_duration, to_timestamp
from cli.trust.gather import to_file
from tests.certificates import A_TEST, B_TEST, NOW, Signed, bundle, intermediate, permitted, root
from tests.unit.cli.fake_admin import Program


def exported(path: Path, top: Signed, *, domain: TrustDomain = A_TEST, **fields: Any) -> Path:
    trusted = bundle(top, trust_domain=domain, sequence=1)
    facts = {
        "trust_domain": domain.name,
        "now": to_timestamp(NOW),
        "upstream": "self",
        "bundle": types_pb2.Bundle(trust_domain=domain.name, json=trusted.to_json()),
        "issuing": [intermediate(top, uri=f"spiffe://{domain}").der],
        "backdate": to_duration(timedelta(seconds=10)),
        "leaf_lifetime": to_duration(timedelta(hours=1)),
    }
    path.write_text(to_file(trust_pb2.ClusterFacts(**{**facts, **fields})))
    return path


def folder(path: Path, top: Signed, issuing: Signed, *, names: tuple[str, str, str] | None = None) -> Path:
    path.mkdir()
    certificate, chain, trusted = names or ("ca-cert.pem", "cert-chain.pem", "root-cert.pem")
    (path / certificate).write_bytes(issuing.pem)
    (path / trusted).write_bytes(top.pem)
    if chain:
        (path / chain).write_bytes(issuing.pem + top.pem)
    return path


async def test_what_holds_is_a_table_and_ends_well(program: Program, tmp_path: Path) -> None:
    top = root()
    a, b = exported(tmp_path / "a.json", top), exported(tmp_path / "b.json", top)
    result = await program("trust", "verify", str(a), str(b))
    assert result.exit_code == 0
    for words in (
        "upstream self",
        "both are of a.test",
        "A believes B",
        "B believes A",
        "name constraints",
        "signatures good",
        "mutual TLS works",
    ):
        assert words in result.stdout


async def test_what_fails_is_told_to_people_and_to_programs(program: Program, tmp_path: Path) -> None:
    a, b = exported(tmp_path / "a.json", root()), exported(tmp_path / "b.json", root("other"))
    told = await program("trust", "verify", str(a), str(b))
    assert told.exit_code == 8
    assert "one trust domain with two roots" in told.stdout
    assert "svid_untrusted" in told.stderr
    assert "root sign" in told.stdout
    assert "3 findings" in told.stderr
    assert "each finding" in told.stderr
    for_programs = await program("trust", "verify", str(a), str(b), "-o", "json")
    document = json.loads(for_programs.stdout)
    assert for_programs.exit_code == 8
    assert not document["works"]
    assert {check["subject"] for check in document["checks"] if check["grade"] == "bad"} == {"roots", "root"}


async def test_what_is_to_be_done_is_said_with_its_server(program: Program, tmp_path: Path) -> None:
    a, other = exported(tmp_path / "a.json", root()), root("other", uri="spiffe://b.test")
    told = await program("trust", "verify", str(a), str(exported(tmp_path / "b.json", other, domain=B_TEST)))
    assert told.exit_code == 8
    assert "on a.test (A): `citadel-cli federation create b.test" in told.stdout
    assert "on b.test (B): `citadel-cli federation create a.test" in told.stdout


async def test_what_cannot_be_told_is_no_success(program: Program, tmp_path: Path) -> None:
    top = root("shared", uri=None)
    a = folder(tmp_path / "a", top, intermediate(top, uri=None, extra=[permitted("a.test")]))
    b = folder(tmp_path / "b", top, intermediate(top, uri=None, extra=[permitted("b.test")]))
    told = await program("trust", "verify", str(a), str(b))
    assert told.exit_code == 8
    assert "cannot be told" in told.stderr
    assert "on a.test (A): name the admin socket" in told.stdout


async def test_a_server_that_does_not_run_is_told_as_by_every_command(program: Program, tmp_path: Path) -> None:
    good, socket = exported(tmp_path / "a.json", root()), tmp_path / "b.sock"
    told = await program("trust", "verify", str(good), str(socket))
    assert told.exit_code == 7
    assert f"the server is not running, or its admin socket is not at {socket}" in told.stderr


@pytest.mark.parametrize("names", [None, ("tls.crt", "", "ca.crt")], ids=["Istio", "cert-manager"])
async def test_folders_are_read_without_their_keys(
    program: Program, tmp_path: Path, names: tuple[str, str, str] | None
) -> None:
    top = root("shared", uri=None)
    a = folder(tmp_path / "a", top, intermediate(top, uri=None), names=names)
    b = folder(tmp_path / "b", top, intermediate(top, "issuing b", uri=None), names=names)
    assert (await program("trust", "verify", str(a), str(b))).exit_code == 0
    stranger = folder(tmp_path / "c", root("other"), intermediate(root("other"), uri=None), names=names)
    assert (await program("trust", "verify", str(a), str(stranger))).exit_code == 8


async def test_a_folder_is_of_the_domain_that_its_constraints_permit(program: Program, tmp_path: Path) -> None:
    top = root("shared", uri=None)
    a = exported(tmp_path / "a.json", top)
    b = folder(tmp_path / "b", top, intermediate(top, uri=None, extra=[permitted("b.test")]))
    result = await program("trust", "verify", str(a), str(b), "-o", "json")
    assert [each["trust_domain"] for each in json.loads(result.stdout)["clusters"]] == ["a.test", "b.test"]


async def test_a_clock_that_is_ahead_shows_in_a_file_from_the_future(program: Program, tmp_path: Path) -> None:
    top = root()
    a = exported(tmp_path / "a.json", top, now=to_timestamp(NOW + timedelta(minutes=1)))
    b = exported(tmp_path / "b.json", top, now=to_timestamp(NOW + timedelta(seconds=1)))
    result = await program("trust", "verify", str(a), str(b))
    assert result.exit_code == 8
    assert "59 s ahead" in result.stdout


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, "there is nothing at"),
        ("{", "no export"),
        ('{"keys": [], "spiffe_sequence": 1}', "it is a trust bundle; `citadel-cli trust export --write FILE` makes"),
        ("[]", "trust domain"),
        ('{"trust_domain": "a.test", "no_such_field": 1}', "no export"),
        ('{"trust_domain": "a.test"}', "JSON"),
        ('{"trust_domain": "A B"}', "trust domain"),
        (b"\xff\xfe", "no export"),
    ],
)
async def test_what_cannot_be_read_is_refused(
    program: Program, tmp_path: Path, content: str | bytes | None, words: str
) -> None:
    file, good = tmp_path / "b.json", exported(tmp_path / "a.json", root())
    if content is not None:
        file.write_bytes(content if isinstance(content, bytes) else content.encode())
    result = await program("trust", "verify", str(good), str(file))
    assert result.exit_code in (3, 4)
    assert words in result.stderr
    assert str(file) in result.stderr


@pytest.mark.parametrize("missing", ["ca-cert.pem", "root-cert.pem"])
async def test_a_folder_that_is_not_whole_is_refused(program: Program, tmp_path: Path, missing: str) -> None:
    top = root()
    good = folder(tmp_path / "a", top, intermediate(top))
    bad = folder(tmp_path / "b", top, intermediate(top))
    (bad / missing).unlink()
    result = await program("trust", "verify", str(good), str(bad))
    assert result.exit_code == 3
    assert missing in result.stderr
    (bad / missing).write_text("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n")
    assert (await program("trust", "verify", str(good), str(bad))).exit_code == 3


async def test_a_bad_certificate_in_an_export_is_refused(program: Program, tmp_path: Path) -> None:
    good, bad = exported(tmp_path / "a.json", root()), exported(tmp_path / "b.json", root(), issuing=[b"\x30\x00"])
    result = await program("trust", "verify", str(good), str(bad))
    assert result.exit_code == 3
    assert "issuing authority" in result.stderr

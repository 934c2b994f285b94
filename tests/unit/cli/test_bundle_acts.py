"""`citadel-cli bundle list`, `set`, `delete`, and what `entry` says of bundles that are not known."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from citadel.bundle import TrustBundle
from citadel.errors import FailedPrecondition, Reason
from tests import certificates
from tests.certificates import A_TEST, B_TEST
from tests.unit.cli.fake_admin import FakeAdmin, Program

THEIRS = certificates.root("theirs", "spiffe://b.test")
OF_B = certificates.bundle(THEIRS, trust_domain=B_TEST, sequence=3)
ENTRY = (
    "--spiffe-id",
    "spiffe://a.test/web",
    "--parent-id",
    "spiffe://a.test/citadel/agent/a1",
    "--selector",
    "unix:uid:1",
)


def written(folder: Path, content: bytes) -> str:
    (path := folder / "bundle").write_bytes(content)
    return str(path)


@pytest.mark.parametrize("form", ["spiffe", "pem"])
async def test_a_bundle_is_set_in_either_form_with_the_reason(
    admin: FakeAdmin, program: Program, tmp_path: Path, form: str
) -> None:
    file = written(tmp_path, OF_B.to_json() if form == "spiffe" else OF_B.to_pem())
    done = await program("bundle", "set", "b.test", file, "--reason", "by phone")
    assert done.exit_code == 0
    assert done.stdout.startswith("set: 1 X.509 and 0 JWT authorities of b.test; no entry federates with it yet")
    (asked,) = admin.bundles.asked
    told = TrustBundle.from_json(B_TEST, asked.bundle.json)
    assert (told.x509_authorities, asked.bundle.trust_domain, asked.why, asked.own_domain) == (
        OF_B.x509_authorities,
        "b.test",
        "by phone",
        False,
    )
    listed = json.loads((await program("bundle", "list", "-o", "json")).stdout)["bundles"]
    assert [(each["trust_domain"], each["source"]) for each in listed] == [
        ("a.test", "own"),
        ("b.test", "set"),
    ]
    shown = await program("bundle", "show", "b.test", "--format", "pem")
    assert shown.stdout_bytes == OF_B.to_pem()


async def test_an_empty_bundle_is_said_to_trust_nobody(admin: FakeAdmin, program: Program, tmp_path: Path) -> None:
    done = await program("bundle", "set", "b.test", written(tmp_path, b'{"keys":[]}'), "--reason", "leaked")
    assert len(admin.bundles.asked) == 1
    assert "nobody of b.test is trusted" in done.stdout, done.stderr
    assert "none: nothing is trusted" in (await program("bundle", "list")).stdout


async def test_roots_of_another_cluster_are_exchanged_on_purpose_and_what_that_means_is_said(
    admin: FakeAdmin, program: Program, tmp_path: Path
) -> None:
    other = certificates.root("the other a.test")
    file = written(tmp_path, certificates.bundle(other).to_json())
    done = await program("bundle", "set", "--own-domain", file, "--reason", "a merger")
    assert done.exit_code == 0
    for words in (
        "it can speak for every identity here",
        "no revocation lists are pushed",
        "what is revoked is taken until its certificate ends",
        "the own roots alone",
    ):
        assert words in done.stdout
    assert [(each.own_domain, each.bundle.trust_domain) for each in admin.bundles.asked] == [(True, "a.test")]
    admin.exchanged = [other]
    assert "another cluster" in (await program("bundle", "show")).stdout
    assert (await program("bundle", "show", "--own", "--format", "pem")).stdout_bytes == admin.root.pem
    whole = TrustBundle.from_json(A_TEST, (await program("bundle", "show", "--format", "spiffe")).stdout_bytes)
    assert len(whole.x509_authorities) == 2
    gone = await program("bundle", "delete", "--own-domain", "--reason", "split up")
    assert "given up" in gone.stdout
    assert "unless `citadel-cli status` has another reason" in gone.stdout


async def test_deleting_passes_the_mode_and_the_refusal_on(admin: FakeAdmin, program: Program, tmp_path: Path) -> None:
    await program("bundle", "set", "b.test", written(tmp_path, OF_B.to_json()), "--reason", "x")
    admin.bundles.refusal = FailedPrecondition(Reason.BUNDLE_IN_USE, "2 entries federate with b.test")
    refused = await program("bundle", "delete", "b.test", "--reason", "x")
    assert (refused.exit_code, "bundle_in_use" in refused.stderr) == (8, True)
    admin.bundles.refusal = None
    done = await program("bundle", "delete", "b.test", "--mode", "dissociate", "--reason", "it ended")
    assert done.stdout == "deleted: b.test is trusted no longer\n"
    assert [(each.mode, each.why) for each in admin.bundles.asked[1:]] == [("dissociate", "it ended")]


@pytest.mark.parametrize(
    ("arguments", "exit_code", "words"),
    [
        (("set", "FILE", "--reason", "x"), 2, "say NAME and FILE"),
        (("set", "b.test", "FILE", "--own-domain", "--reason", "x"), 2, "say NAME and FILE"),
        (("set", "b.test", "FILE"), 2, "--reason"),
        (("set", "b.test", "/no/such/file", "--reason", "x"), 4, "there is no file"),
        (("set", "b.test", "GARBAGE", "--reason", "x"), 3, "bundle_malformed"),
        (("set", "B!", "FILE", "--reason", "x"), 3, "trust_domain_malformed"),
        (("delete", "--reason", "x"), 2, "say either NAME or --own-domain"),
        (("delete", "b.test", "--own-domain", "--reason", "x"), 2, "say either NAME or --own-domain"),
        (("delete", "b.test", "--mode", "force", "--reason", "x"), 2, "--mode"),
        (("show", "c.test"), 4, "bundle_not_found"),
        (("show", "c.test", "--own"), 2, "leave NAME out"),
    ],
)
async def test_what_is_wrong_is_said(
    admin: FakeAdmin, program: Program, tmp_path: Path, arguments: tuple[str, ...], exit_code: int, words: str
) -> None:
    (tmp_path / "garbage").write_bytes(b"garbage")
    files = {"FILE": written(tmp_path, OF_B.to_json()), "GARBAGE": str(tmp_path / "garbage")}
    refused = await program("bundle", *(files.get(each, each) for each in arguments))
    assert (refused.exit_code, words in refused.stderr) == (exit_code, True), refused.stderr
    assert not admin.bundles.asked


async def test_an_entry_may_federate_before_a_bundle_is_known_and_that_is_said(
    admin: FakeAdmin, program: Program, tmp_path: Path
) -> None:
    made = await program("entry", "create", *ENTRY, "--federates-with", "b.test")
    assert made.exit_code == 0, made.stderr
    assert "b.test (no bundle known)" in made.stdout
    assert "no bundle of b.test is known yet" in made.stderr
    plain = await program("entry", "show", "e1", "-o", "json")
    assert json.loads(plain.stdout)["federates_with"] == ["b.test"]
    assert "no bundle of b.test is known yet" in plain.stderr
    await program("bundle", "set", "b.test", written(tmp_path, OF_B.to_json()), "--reason", "x")
    assert admin.bundles.known.keys() == {"b.test"}
    known = await program("entry", "show", "e1")
    assert "no bundle" not in known.stdout + known.stderr

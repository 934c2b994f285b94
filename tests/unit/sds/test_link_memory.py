"""What an agent knows of revocations when it starts again, before its server is heard."""

from __future__ import annotations

import stat
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Final

import pytest
import structlog

from citadel._wire import agent_api_pb2 as pb
from citadel._wire import types_pb2
from sds.holdings import HoldingsFeed
from sds.link.memory import FILE_NAME, RevocationFile, RevocationMemory, Told
from tests import certificates
from tests.certificates import A_TEST, B_TEST, NOW
from tests.revocations import revocation_set

ROOT: Final = certificates.root()
ISSUER: Final = certificates.intermediate(ROOT)
BUNDLE: Final = certificates.bundle(ROOT)
PEER: Final = certificates.leaf(ISSUER)
TOLD: Final = Told(
    revocation_set(ROOT, ISSUER, revoked=[PEER.certificate.serial_number]),
    frozenset(A_TEST.member(f"w{number}") for number in range(100)),
)


@pytest.fixture
def file(tmp_path: Path) -> RevocationFile:
    file = RevocationFile(tmp_path, A_TEST)
    file.save(TOLD)
    return file


async def recalled(file: RevocationFile, *, bundle: object = BUNDLE, later: timedelta = timedelta(0)) -> HoldingsFeed:
    feed = HoldingsFeed()
    await RevocationMemory(file=file, feed=feed).recall(bundle=bundle, now=NOW + later)  # type: ignore[arg-type]
    return feed


async def test_it_is_what_was_told_last(file: RevocationFile) -> None:
    now = (await recalled(file)).current
    assert now.revocations.version == TOLD.lists.version
    assert now.revocations.hold(TOLD.lists.lists[0].issuer_key_id, 1) is False
    assert any(now.revocations.hold(each.issuer_key_id, PEER.certificate.serial_number) for each in TOLD.lists.lists)
    assert now.revoked_identities == TOLD.identities
    assert (now.knows_revocations, now.is_told) == (True, False), "entries are not told by it"
    assert stat.S_IMODE(file.path.stat().st_mode) == 0o600


async def test_more_than_a_secret_may_have_is_taken(tmp_path: Path) -> None:
    """Of a hundred thousand certificates the list has some megabytes."""
    file = RevocationFile(tmp_path, A_TEST)
    file.save(Told(revocation_set(ROOT, ISSUER, revoked=range(1 << 150, (1 << 150) + 50_000)), frozenset()))
    assert file.path.stat().st_size > 1 << 20
    assert (await recalled(file)).current.knows_revocations


def _cut(path: Path) -> None:
    named = types_pb2.RevokedIdentities(spiffe_ids=map(str, TOLD.identities))
    path.write_bytes(path.read_bytes()[: -pb.Update(revoked_identities=named).ByteSize()])  # the rest can be read


def _cut_short(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:30])


def _flipped(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-3] ^= 1
    path.write_bytes(content)


def _newer_form(path: Path) -> None:
    path.write_bytes(path.read_bytes().replace(b"revocations 1", b"revocations 2", 1))


def _open_to_others(path: Path) -> None:
    path.chmod(0o644)


def _folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


@pytest.mark.parametrize("damage", [_cut, _cut_short, _flipped, _newer_form, _open_to_others, _folder])
async def test_of_a_damaged_file_nothing_is_known_and_that_is_logged(
    file: RevocationFile, damage: Callable[[Path], None]
) -> None:
    damage(file.path)
    with structlog.testing.capture_logs() as logs:
        feed = await recalled(file)
    assert feed.current == HoldingsFeed().current
    assert not feed.current.knows_revocations
    assert [(log["log_level"], log["file"]) for log in logs] == [("error", str(file.path))]


async def test_without_a_file_nothing_is_known(tmp_path: Path) -> None:
    with structlog.testing.capture_logs() as logs:
        feed = await recalled(RevocationFile(tmp_path, A_TEST))
    assert not feed.current.knows_revocations
    assert [(log["log_level"], log["file"]) for log in logs] == [("info", str(tmp_path / FILE_NAME))]


@pytest.mark.invariant(9)
async def test_it_is_judged_by_the_bundle_like_what_the_server_sends(file: RevocationFile) -> None:
    assert not (
        await recalled(file, bundle=certificates.bundle(certificates.root("another")))
    ).current.knows_revocations
    assert not (await recalled(file, later=-timedelta(days=1))).current.knows_revocations, "it is of the future"
    assert (await recalled(file, later=timedelta(hours=1))).current.knows_revocations


async def test_that_of_another_trust_domain_is_none(tmp_path: Path) -> None:
    """Also one that revokes nothing, which no bundle could tell apart."""
    RevocationFile(tmp_path, B_TEST).save(Told(revocation_set(ROOT), frozenset()))
    assert not (await recalled(RevocationFile(tmp_path, A_TEST))).current.knows_revocations


async def test_what_is_the_same_as_what_was_recalled_is_not_written_again(file: RevocationFile) -> None:
    feed = HoldingsFeed()
    memory = RevocationMemory(file=file, feed=feed)
    await memory.recall(bundle=BUNDLE, now=NOW)
    written = file.path.stat().st_ino
    await memory.keep()
    assert file.path.stat().st_ino == written

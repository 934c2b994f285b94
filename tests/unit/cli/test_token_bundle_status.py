"""`citadel-cli token`, `bundle` and `status` over a real socket."""

from __future__ import annotations

import json
from datetime import timedelta
from typing import Any

import pytest
from cryptography import x509

from citadel._wire import admin_pb2, types_pb2
from citadel.bundle import TrustBundle
from citadel.wire import to_duration, to_timestamp
from tests import certificates
from tests.clock import FakeClock
from tests.unit.cli.fake_admin import FakeAdmin, Program

SERIAL = "0123456789abcdef" * 2
JOIN_STRING = "citadel://127.0.0.1:8443/a.test?bundle-sha256=00&token=t0ken"


async def test_token_create_prints_the_join_string_alone(admin: FakeAdmin, program: Program) -> None:
    result = await program(
        "token",
        "create",
        "--ttl",
        "1h",
        "--agent-name",
        "a1",
        "--node-selector",
        "node:rack:a1",
        "--node-selector",
        "node:az:b",
    )
    assert (result.exit_code, result.stdout) == (0, JOIN_STRING + "\n")
    assert result.stderr == "for spiffe://a.test/citadel/agent/a1, once, until 2026-01-01T01:00:00Z (in 1h)\n"
    (request,) = admin.tokens
    assert (request.ttl.ToTimedelta(), list(request.node_selectors)) == (
        timedelta(hours=1),
        ["node:rack:a1", "node:az:b"],
    )


async def test_token_create_leaves_the_lifetime_to_the_server(admin: FakeAdmin, program: Program) -> None:
    result = await program("token", "create", "-o", "json")
    assert json.loads(result.stdout) == {
        "join_string": JOIN_STRING,
        "agent_id": "spiffe://a.test/citadel/agent/chosen",
        "expires_at": "2026-01-01T00:10:00Z",
        "agent_exists": False,
    }
    assert not admin.tokens[0].HasField("ttl")


async def test_a_lifetime_of_nothing_is_sent_and_not_taken_for_the_default(admin: FakeAdmin, program: Program) -> None:
    await program("token", "create", "--ttl", "0s")
    (request,) = admin.tokens
    assert request.HasField("ttl")
    assert request.ttl.ToTimedelta() == timedelta()


async def test_a_token_for_a_name_in_use_comes_with_a_warning(admin: FakeAdmin, program: Program) -> None:
    admin.joined.add("a1")
    result = await program("token", "create", "--agent-name", "a1")
    assert (result.exit_code, result.stdout) == (0, JOIN_STRING + "\n")
    assert result.stderr.splitlines()[1] == (
        "warning: spiffe://a.test/citadel/agent/a1 exists already: using this token replaces its key, and the machine "
        "that runs under it now loses its identity"
    )
    plain = await program("token", "create", "--agent-name", "a1", "-o", "json")
    assert json.loads(plain.stdout)["agent_exists"] is True
    assert "warning" not in (await program("token", "create", "--agent-name", "a2")).stderr


async def test_an_agent_without_a_name_is_wrong_usage(admin: FakeAdmin, program: Program) -> None:
    result = await program("token", "create", "--agent-name", "")
    assert (result.exit_code, result.stdout, admin.tokens) == (2, "", [])
    assert "'--agent-name': the value is empty" in result.stderr


async def test_bundle_show_prints_the_documents_themselves(admin: FakeAdmin, program: Program) -> None:
    spiffe = await program("bundle", "show", "--format", "spiffe")
    assert TrustBundle.from_json(certificates.A_TEST, spiffe.stdout.encode()).sequence == 7
    pem = await program("bundle", "show", "--format", "pem")
    assert x509.load_pem_x509_certificates(pem.stdout.encode()) == [admin.root.certificate]


async def test_bundle_show_says_the_digest_that_join_strings_pin(admin: FakeAdmin, program: Program) -> None:
    digest = certificates.bundle(admin.root).x509_digest()
    table = (await program("bundle", "show")).stdout
    assert digest in table
    assert f"{admin.root.certificate.serial_number:x}" in table
    plain = json.loads((await program("bundle", "show", "-o", "json")).stdout)
    assert (plain["sha256"], plain["sequence"], plain["refresh_hint_seconds"]) == (digest, 7, 300)
    assert [authority["not_after"] for authority in plain["x509_authorities"]] == ["2026-01-08T00:00:00Z"]


@pytest.fixture
def busy(admin: FakeAdmin, clock: FakeClock) -> admin_pb2.Status:
    now = clock.now()
    sent = types_pb2.ResourceReport(
        name="default",
        state=types_pb2.ResourceReport.ACKNOWLEDGED,
        version="abc",
        spiffe_id="spiffe://a.test/web",
        serial=SERIAL,
        not_after=to_timestamp(now + timedelta(hours=1)),
    )
    refused = types_pb2.ResourceReport(
        name="ROOTCA",
        state=types_pb2.ResourceReport.REFUSED,
        refusal="Failed to load\x1b[31m trusted CA",
        trust_domain="a.test",
        bundle_sequence=7,
    )
    waiting = types_pb2.ResourceReport(name="spiffe://a.test/db", state=types_pb2.ResourceReport.WAITING)
    stream = types_pb2.StreamReport(
        stream_id="1",
        protocol="sds",
        pid=42,
        uid=1000,
        executable="/usr/bin/web",
        node_id="sidecar",
        resources=[sent, refused, waiting],
    )
    admin.status = admin_pb2.Status(
        version="0.1.0",
        trust_domain="a.test",
        started_at=to_timestamp(now - timedelta(minutes=5)),
        revision=9,
        bundle_sequence=7,
        bundle_x509_sequence=5,
        entries=3,
        issued=2**53 + 1,
        authorities=[
            admin_pb2.AuthorityStatus(
                id="r1", kind="root", state="ACTIVE", serial="0f", not_after=to_timestamp(now + timedelta(days=365))
            ),
            admin_pb2.AuthorityStatus(
                id="t1",
                kind="jwt",
                state="old",
                kid="k" * 32,
                not_after=to_timestamp(now + timedelta(days=7)),
                signed_until=to_timestamp(now + timedelta(minutes=5)),
            ),
        ],
        agents=[
            admin_pb2.AgentStatus(spiffe_id="spiffe://a.test/citadel/agent/a1", connected=True, streams=[stream]),
            admin_pb2.AgentStatus(spiffe_id="spiffe://a.test/citadel/agent/a2", banned=True),
        ],
        refused={"entry_not_found": 2, "csr_malformed": 1},
        ledger_gaps=[
            admin_pb2.LedgerGap(
                begin=to_timestamp(now - timedelta(hours=2)), end=to_timestamp(now - timedelta(hours=1))
            )
        ],
    )
    return admin.status


@pytest.mark.usefixtures("busy")
async def test_status_names_what_each_stream_holds_or_refused(program: Program) -> None:
    result = await program("status")
    assert result.exit_code == 0
    text = result.stdout
    for expected in (
        "5m",
        "2027-01-01T00:00:00Z (in 365d)",
        "bundle sequence  7, that of the X.509 authorities 5\n",
        f"jwt   old     t1  {'k' * 32}  2026-01-08T00:00:00Z (in 7d)    2026-01-01T00:05:00Z (in 5m)\n",
        f"acknowledged  spiffe://a.test/web  {SERIAL}  2026-01-01T01:00:00Z (in 1h)",
        "streams of spiffe://a.test/citadel/agent/a1\n",
        "no entry matches uid 1000, /usr/bin/web\n",
        "bundle 7 of a.test",
        "acknowledged",
        "banned, away",
        "ledger gap       2025-12-31T22:00:00Z to 2025-12-31T23:00:00Z\n",
    ):
        assert expected in text, expected
    assert "1970" not in text
    assert [line.split() for line in text.splitlines()[-2:]] == [["csr_malformed", "1"], ["entry_not_found", "2"]]


async def test_status_says_where_no_revocation_lists_are_pushed(admin: FakeAdmin, program: Program) -> None:
    assert "revocation" not in (await program("status")).stdout
    admin.status.revocation_trouble = "roots of another cluster are trusted. Far more is to be said"
    shown = (await program("status")).stdout
    assert "not refused: roots of another cluster are trusted" in shown
    assert "Far more" not in shown


async def test_status_says_where_the_lists_are_behind(admin: FakeAdmin, program: Program) -> None:
    admin.status.revocation_behind = "the list of i1 lacks what was revoked last: Vault is sealed\x1b[2J"
    assert r"the list of i1 lacks what was revoked last: Vault is sealed\x1b[2J" in (await program("status")).stdout


@pytest.mark.usefixtures("busy")
async def test_what_a_proxy_says_cannot_steer_the_terminal(program: Program) -> None:
    text = (await program("status")).stdout
    assert "\x1b" not in text
    assert r"Failed to load\x1b[31m trusted CA" in text


async def test_status_says_how_it_is_with_the_pods_of_a_cluster(admin: FakeAdmin, program: Program) -> None:
    pods = admin_pb2.WorkloadStatus(admitted=7, entries=6)
    cluster = admin.status.kubernetes.add(cluster="main", good=True, pods=9, pods_known=True, workloads=pods)
    assert "main, 9 pods, 7 admitted, 6 entries\n" in (await program("status")).stdout
    cluster.workloads.problems = 1
    cluster.workloads.shown.append("shop/web-0: no SPIFFE ID\x1b[2J")
    shown = (await program("status")).stdout
    assert "7 admitted, 6 entries, 1 with problems\n" in shown
    assert r"shop/web-0: no SPIFFE ID\x1b[2J" in shown


@pytest.mark.usefixtures("busy")
async def test_status_for_programs(program: Program) -> None:
    status = json.loads((await program("-o", "json", "status")).stdout)
    assert status["issued"] == 2**53 + 1
    assert status["started_at"] == "2025-12-31T23:55:00Z"
    assert status["refused"] == {"csr_malformed": 1, "entry_not_found": 2}
    first, second, _ = status["agents"][0]["streams"][0]["resources"]
    assert (first["state"], first["not_after"]) == ("acknowledged", "2026-01-01T01:00:00Z")
    assert (second["state"], second["not_after"], second["bundle_sequence"]) == ("refused", None, 7)


async def test_status_of_a_server_with_nothing(admin: FakeAdmin, program: Program) -> None:  # noqa: ARG001
    assert (await program("status")).stdout.count("\nnone\n") == 4


@pytest.mark.usefixtures("busy")
async def test_status_shows_no_rotation_and_no_jump_where_there_is_none(program: Program) -> None:
    text = (await program("status")).stdout
    assert [line for line in text.splitlines() if line.startswith(("rotation", "clock"))] == []
    plain = json.loads((await program("status", "-o", "json")).stdout)
    assert (plain["rotation"], plain["clock_jump"]) == (None, None)


@pytest.mark.parametrize(
    ("change", "line"),
    [
        ({}, "root: observe for 3m, waits for nobody"),
        ({"holders": 2}, "root: observe for 3m, waits for 2"),
        (
            {"holders": 1, "failing": "no\x1b (vault_denied)"},
            r"root: observe for 3m, cannot go on: no\x1b (vault_denied)",
        ),
        ({"paused": True, "emergency": True}, "root, emergency: observe, paused for 3m, waits for nobody"),
        ({"alarm": "went on\x1b[2J"}, r"root: observe for 3m, waits for nobody; alarm: went on\x1b[2J"),
    ],
)
async def test_status_shows_the_rotation_that_runs(
    admin: FakeAdmin, program: Program, clock: FakeClock, change: dict[str, Any], line: str
) -> None:
    since = to_timestamp(clock.now() - timedelta(minutes=3))
    admin.status.rotation.CopyFrom(admin_pb2.RotationStatus(kind="root", phase="observe", phase_since=since, **change))
    shown = [row.split(maxsplit=1)[1] for row in (await program("status")).stdout.splitlines() if "rotation " in row]
    assert shown == [line]
    plain = json.loads((await program("status", "-o", "json")).stdout)
    assert plain["rotation"]["phase_since"] == "2025-12-31T23:57:00Z"


@pytest.mark.parametrize(("jump", "text"), [(timedelta(hours=1), "+3600 s"), (timedelta(hours=-1), "-3600 s")])
async def test_status_shows_that_the_clock_has_jumped(
    admin: FakeAdmin, program: Program, jump: timedelta, text: str
) -> None:
    admin.status.clock_jump.CopyFrom(to_duration(jump))
    assert f"has jumped by {text} since the server's start" in (await program("status")).stdout


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"kind": "self", "good": True}, "self"),
        ({"kind": "citadel", "source": "p:8444", "good": True}, "citadel p:8444"),
        (
            {"kind": "citadel", "source": "p:8444", "reason": "upstream_unavailable", "message": "away"},
            "citadel p:8444: away (upstream_unavailable)",
        ),
    ],
)
async def test_status_shows_where_the_issuing_authority_comes_from(
    program: Program, admin: FakeAdmin, change: dict[str, object], text: str
) -> None:
    admin.status.upstream.CopyFrom(admin_pb2.UpstreamStatus(**change))
    shown = [row.split(maxsplit=1)[1] for row in (await program("status")).stdout.splitlines() if "upstream " in row]
    assert shown == [text]


@pytest.mark.parametrize(
    ("left", "text"),
    [
        (timedelta(hours=3), "nothing is issued from 2026-01-01T03:00:00Z, in 3h"),
        (timedelta(seconds=-1), "nothing is issued now"),
    ],
)
async def test_status_counts_down_while_nothing_new_comes_from_there(
    program: Program, admin: FakeAdmin, clock: FakeClock, left: timedelta, text: str
) -> None:
    admin.status.upstream.CopyFrom(
        admin_pb2.UpstreamStatus(
            kind="citadel",
            reason="upstream_unavailable",
            message="away",
            since=to_timestamp(clock.now() - timedelta(minutes=3)),
            lasts_until=to_timestamp(clock.now() + left),
        )
    )
    [row] = [line for line in (await program("status")).stdout.splitlines() if "upstream " in line]
    assert row.endswith(f"away (upstream_unavailable), for 3m; {text}"), row


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"good": True}, "https://v:8200 by approle"),
        ({"good": True, "keys": "made"}, "https://v:8200 by approle, holds the keys"),
        (
            {"keys": "sealed", "reason": "vault_denied", "message": "no \x1b[31m"},
            "https://v:8200 by approle, seals the keys: no \\x1b[31m (vault_denied), for 3m",
        ),
    ],
)
async def test_status_shows_how_it_is_with_vault(
    program: Program, admin: FakeAdmin, clock: FakeClock, change: dict[str, Any], text: str
) -> None:
    since = to_timestamp(clock.now() - timedelta(minutes=3))
    admin.status.vault.CopyFrom(admin_pb2.VaultStatus(address="https://v:8200", login="approle", since=since, **change))
    shown = [row.split(maxsplit=1)[1] for row in (await program("status")).stdout.splitlines() if "vault " in row]
    assert shown == [text]

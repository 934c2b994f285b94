"""Which entries may exist: the table of what is refused, each row naming its rule, and its counterpart."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest

from ca.entries.rules import check_entry, is_alias
from citadel._wire import types_pb2 as pb
from citadel.entry import Entry
from citadel.errors import InvalidArgument, Reason
from citadel.spiffe import SpiffeId, TrustDomain
from citadel.wire import entry_from_wire, entry_to_wire
from tests.unit.ca.values import A_TEST, NODE_1, NOW, SERVER, entry, selectors

LONGEST = "/" + "p" * (2048 - len("spiffe://a.test/"))
GOOD = pb.Entry(spiffe_id="spiffe://a.test/web", parent_id=str(NODE_1), selectors=["unix:uid:1000"])


def wire(**fields: object) -> pb.Entry:
    message = pb.Entry()
    message.CopyFrom(GOOD)
    for name, value in fields.items():
        message.ClearField(name)
        message.MergeFrom(pb.Entry(**{name: value}))
    return message


BAD_IDS = [
    ("", Reason.ID_MALFORMED),
    ("spiffe://a.test/", Reason.ID_MALFORMED),
    ("spiffe://a.test//web", Reason.ID_MALFORMED),
    ("spiffe://a.test/web/", Reason.ID_MALFORMED),
    ("spiffe://a.test/../web", Reason.ID_MALFORMED),
    ("spiffe://a.test/%77eb", Reason.ID_MALFORMED),
    ("spiffe://a.test/web\n", Reason.ID_MALFORMED),
    ("spiffe://a.test/web?x", Reason.ID_MALFORMED),
    ("https://a.test/web", Reason.ID_MALFORMED),
    ("SPIFFE://a.test/web", Reason.ID_MALFORMED),
    ("spiffe://A.test/web", Reason.TRUST_DOMAIN_MALFORMED),
    ("spiffe:///web", Reason.TRUST_DOMAIN_MALFORMED),
    ("spiffe://a.test" + LONGEST + "p", Reason.ID_MALFORMED),
    ("spiffe://a.test", Reason.ENTRY_ROOT_PATH),
    ("spiffe://a.test/citadel", Reason.ENTRY_RESERVED_ID),
    ("spiffe://a.test/citadel/server", Reason.ENTRY_RESERVED_ID),
    ("spiffe://a.test/citadel/agent/node-1", Reason.ENTRY_RESERVED_ID),
    ("spiffe://a.test/citadel/anything/else", Reason.ENTRY_RESERVED_ID),
    ("spiffe://b.test/web", Reason.ENTRY_FOREIGN_TRUST_DOMAIN),
    ("spiffe://x.a.test/web", Reason.ENTRY_FOREIGN_TRUST_DOMAIN),
    ("spiffe://a.test.b.test/web", Reason.ENTRY_FOREIGN_TRUST_DOMAIN),
]
BAD_PARENTS = [
    ("", Reason.ID_MALFORMED),
    ("spiffe://b.test/citadel/agent/node-1", Reason.ENTRY_BAD_PARENT),
    ("spiffe://a.test", Reason.ENTRY_BAD_PARENT),
    ("spiffe://a.test/citadel", Reason.ENTRY_BAD_PARENT),
    ("spiffe://a.test/citadel/agent", Reason.ENTRY_BAD_PARENT),
    ("spiffe://a.test/citadel/agent/a/b", Reason.ENTRY_BAD_PARENT),
    ("spiffe://a.test/citadel/admin", Reason.ENTRY_BAD_PARENT),
    ("spiffe://a.test/web", Reason.ENTRY_BAD_PARENT),
]
RESERVED_DNS = [
    "citadel.internal",
    "server.citadel.internal",
    "CITADEL.INTERNAL",
    "Server.Citadel.Internal",
    "server.citadel.internal.",
    "SERVER.citadel.INTERNAL.",
    "citadel.internal..",
    "*.citadel.internal",
    "a.b.citadel.internal",
]
BAD_DNS = [
    "*.a.test",
    "*",
    "a.*.test",
    "a.test.",
    ".a.test",
    "a..test",
    "",
    "-a.test",
    "a-.test",
    "a b",
    "a.test\n",
    "ä.test",
    "a/b",
    "x" * 64,
    ".".join(["x" * 49] * 6),
    "citadel。internal",
]


def check(wanted: Entry) -> None:
    check_entry(wanted, trust_domain=A_TEST, now=NOW)


@pytest.mark.spec("X509-06", "ID-20", "ID-07")
@pytest.mark.invariant(13)
@pytest.mark.parametrize(("spiffe_id", "reason"), BAD_IDS)
def test_an_entry_with_a_bad_id_is_refused(spiffe_id: str, reason: Reason) -> None:
    with pytest.raises(InvalidArgument) as refused:
        check(entry_from_wire(wire(spiffe_id=spiffe_id)))
    assert refused.value.reason is reason


@pytest.mark.parametrize(("parent", "reason"), BAD_PARENTS)
def test_an_entry_with_a_bad_parent_is_refused(parent: str, reason: Reason) -> None:
    with pytest.raises(InvalidArgument) as refused:
        check(entry_from_wire(wire(parent_id=parent)))
    assert refused.value.reason is reason


@pytest.mark.invariant(13)
@pytest.mark.parametrize("name", RESERVED_DNS)
def test_a_reserved_dns_name_is_refused_however_it_is_written(name: str) -> None:
    with pytest.raises(InvalidArgument) as refused:
        check(entry(dns_names=("good.test", name)))
    assert refused.value.reason is Reason.ENTRY_RESERVED_DNS_NAME


@pytest.mark.parametrize("name", BAD_DNS)
def test_a_wildcard_or_malformed_dns_name_is_refused(name: str) -> None:
    with pytest.raises(InvalidArgument) as refused:
        check(entry(dns_names=("good.test", name)))
    assert refused.value.reason is Reason.ENTRY_BAD_DNS_NAME


REFUSED = [
    ("no selectors", entry(selectors=frozenset()), Reason.ENTRY_NO_SELECTORS),
    ("an alias without selectors", entry(parent=SERVER, selectors=frozenset()), Reason.ENTRY_NO_SELECTORS),
    (
        "node selectors on a workload",
        entry("/w", NODE_1, "unix:uid:1", "node:rack:a1"),
        Reason.ENTRY_BAD_SELECTOR,
    ),
    ("workload selectors on an alias", entry("/w", SERVER, "node:rack:a1", "unix:uid:1"), Reason.ENTRY_BAD_SELECTOR),
    (
        "101 selectors",
        entry(selectors=selectors(*(f"unix:uid:{uid}" for uid in range(101)))),
        Reason.ENTRY_BAD_SELECTOR,
    ),
    ("an IP address for a DNS name", entry(dns_names=("10.0.0.1",)), Reason.ENTRY_BAD_DNS_NAME),
    ("101 DNS names", entry(dns_names=tuple(f"h{n}.test" for n in range(101))), Reason.ENTRY_BAD_DNS_NAME),
    ("a hint of 1025 bytes", entry(hint="h" * 1025), Reason.ENTRY_MALFORMED),
    ("a hint of 1025 bytes in 513 characters", entry(hint="ä" * 512 + "h"), Reason.ENTRY_MALFORMED),
    ("its own domain federated", entry(federates_with=frozenset({A_TEST})), Reason.ENTRY_MALFORMED),
    ("an X.509 lifetime of zero", entry(x509_svid_ttl=timedelta(0)), Reason.ENTRY_BAD_LIFETIME),
    ("a negative X.509 lifetime", entry(x509_svid_ttl=timedelta(seconds=-1)), Reason.ENTRY_BAD_LIFETIME),
    ("a JWT lifetime under a second", entry(jwt_svid_ttl=timedelta(milliseconds=999)), Reason.ENTRY_BAD_LIFETIME),
    ("expired already", entry(expires_at=NOW), Reason.ENTRY_EXPIRED),
]


@pytest.mark.parametrize(("wanted", "reason"), [pytest.param(*row[1:], id=row[0]) for row in REFUSED])
def test_an_entry_that_breaks_a_rule_is_refused(wanted: Entry, reason: Reason) -> None:
    with pytest.raises(InvalidArgument) as refused:
        check(wanted)
    assert refused.value.reason is reason


@pytest.mark.parametrize("text", ["", "unix", "unix:", ":uid:1", "Unix:uid:1", "unix:a\nb", "unix:" + "x" * 4096])
def test_a_malformed_selector_is_refused(text: str) -> None:
    with pytest.raises(InvalidArgument) as refused:
        entry_from_wire(wire(selectors=[text]))
    assert refused.value.reason is Reason.ENTRY_BAD_SELECTOR


ACCEPTED = [
    ("the plain case", entry()),
    ("under an alias", entry(parent=SpiffeId(A_TEST, "/nodes/web"))),
    ("an alias", entry(parent=SERVER)),
    ("an ID of 2048 bytes", entry(LONGEST)),
    ("several levels", entry("/ns/prod/sa/web")),
    ("a path that only looks reserved", entry("/citadels/agent/x")),
    ("reserved words further down", entry("/x/citadel/server")),
    ("a hint of 1024 bytes", entry(hint="ä" * 512)),
    ("an alias with 100 selectors", entry("/nodes/a", SERVER, *(f"node:rack:{n}" for n in range(100)))),
    ("100 DNS names", entry(dns_names=tuple(f"h{n}.test" for n in range(100)))),
    ("DNS names of every good form", entry(dns_names=("a", "A.test", "_grpc.a.test", "xn--a.test", "x" * 63, "1.a"))),
    ("a DNS name that only ends alike", entry(dns_names=("notcitadel.internal", "citadel.internal.a.test"))),
    ("a lifetime of a second", entry(x509_svid_ttl=timedelta(seconds=1), jwt_svid_ttl=timedelta(seconds=1))),
    ("a lifetime beyond all dates", entry(x509_svid_ttl=timedelta.max)),
    ("federated with another domain", entry(federates_with=frozenset({TrustDomain("b.test")}))),
    ("an expiry to come", entry(expires_at=NOW + timedelta(seconds=1))),
]


@pytest.mark.spec("ID-16", "ID-19", "ID-20")
@pytest.mark.parametrize("wanted", [pytest.param(wanted, id=name) for name, wanted in ACCEPTED])
def test_an_entry_that_keeps_the_rules_is_taken(wanted: Entry) -> None:
    check(wanted)


@pytest.mark.spec("ID-19")
def test_an_id_of_2048_bytes_crosses_the_wire() -> None:
    longest = entry(LONGEST)
    assert len(str(longest.spiffe_id)) == 2048
    assert entry_from_wire(pb.Entry.FromString(entry_to_wire(longest).SerializeToString())) == longest


def test_an_alias_is_an_entry_under_the_server() -> None:
    assert is_alias(entry(parent=SERVER), A_TEST)
    assert not is_alias(entry(), A_TEST)
    assert not is_alias(replace(entry(), parent_id=SpiffeId(TrustDomain("b.test"), "/citadel/server")), A_TEST)


HUGE = "x" * 20_000
HUGE_VALUES = [
    entry(LONGEST, parent=SpiffeId(TrustDomain("b.test"), LONGEST)),
    entry(LONGEST, SpiffeId(A_TEST, "/citadel" + LONGEST[: -len("/citadel")])),
    entry("/citadel" + LONGEST[: -len("/citadel")]),
    entry("/w", NODE_1, "node:" + "x" * 4000),
    entry("/w", NODE_1, "unix:path:x" + "x" * 4000),
    entry(dns_names=(HUGE,)),
    entry(dns_names=("*" + HUGE,)),
    entry(dns_names=(HUGE + ".citadel.internal",)),
    replace(entry(), spiffe_id=SpiffeId(TrustDomain("b.test"), LONGEST)),
]


@pytest.mark.parametrize("wanted", HUGE_VALUES)
def test_a_refusal_repeats_no_more_than_the_beginning_of_a_value(wanted: Entry) -> None:
    with pytest.raises(InvalidArgument) as refused:
        check(wanted)
    assert len(refused.value.message) < 600

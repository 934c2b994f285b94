"""Files of entries: the forms that are taken, and every line that is wrong told at once."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from citadel.entry import Entry
from citadel.errors import InvalidArgument, Reason
from citadel.selector import Selector
from citadel.spiffe import SpiffeId, TrustDomain
from cli.admin.entry_file import MOST_TOLD, read_documents

A1 = "spiffe://a.test/citadel/agent/a1"
WEB = f"spiffe_id: spiffe://a.test/web\nparent_id: {A1}\nselectors: [unix:uid:1000]\n"
SHOP = WEB.replace("web", "shop")
JSON = f'{{"spiffe_id": "spiffe://a.test/web", "parent_id": "{A1}", "selectors": ["unix:uid:1000"]}}'


def read(text: str) -> list[Entry]:
    return [document.entry for document in read_documents("f", text.encode())]


def indented(text: str) -> str:
    return "- " + text.rstrip().replace("\n", "\n  ") + "\n"


@pytest.mark.parametrize(
    ("text", "names"),
    [
        (WEB, ["/web"]),
        (f"{WEB}---\n{SHOP}", ["/web", "/shop"]),
        (f"---\n---\n{WEB}---\n# nothing\n", ["/web"]),
        (indented(WEB) + indented(SHOP), ["/web", "/shop"]),
        (f"entries:\n{indented(WEB)}---\n{SHOP}", ["/web", "/shop"]),
        (JSON, ["/web"]),
        (f'{{"entries": [{JSON}]}}', ["/web"]),
        ("", []),
        ("entries: []", []),
    ],
)
def test_one_entry_or_many_in_every_form(text: str, names: list[str]) -> None:
    assert [entry.spiffe_id.path for entry in read(text)] == names


def test_every_field() -> None:
    [entry] = read(
        WEB + "id: e1\nx509_svid_ttl: 1h30m\njwt_svid_ttl: 1.500s\ndns_names: [web, w]\nfederates_with: [b.test]\n"
        "hint: on\nexpires_at: 2030-01-31T13:00:00+01:00\nadmin: true\ndownstream: false\nrevision: 7\n"
        "created_at: whenever\norigin: k8s:main/shop/web-0\n"
    )
    assert entry == Entry(
        id="e1",
        spiffe_id=SpiffeId.parse("spiffe://a.test/web"),
        parent_id=SpiffeId.parse(A1),
        selectors=frozenset({Selector.parse("unix:uid:1000")}),
        x509_svid_ttl=timedelta(hours=1, minutes=30),
        jwt_svid_ttl=timedelta(seconds=1.5),
        dns_names=("web", "w"),
        federates_with=frozenset({TrustDomain("b.test")}),
        hint="on",
        expires_at=datetime(2030, 1, 31, 12, tzinfo=UTC),
        admin=True,
        revision=7,
        origin="k8s:main/shop/web-0",
    )


def test_null_and_nothing_are_the_default() -> None:
    assert read(WEB + "hint: null\nx509_svid_ttl: ~\nexpires_at:\ndns_names: null\n") == read(WEB)
    assert read(WEB + 'hint: "null"\n')[0].hint == "null"


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (WEB + "hnt: x\n", ["f:4: unknown field 'hnt'; did you mean hint? (entry_malformed)"]),
        (WEB + "hint: [x]\n", ["f:4: hint: a plain value belongs here (entry_malformed)"]),
        (WEB + "dns_names: web\n", ["f:4: dns_names: a list belongs here (entry_malformed)"]),
        (WEB + "admin: yes\n", ["f:4: admin: 'yes' is neither true nor false (entry_malformed)"]),
        (WEB + "revision: -1\n", ["f:4: revision: '-1' is not a number (entry_malformed)"]),
        (WEB + "x509_svid_ttl: 60\n", ["f:4: x509_svid_ttl: '60' is not a duration"]),
        (WEB + "expires_at: 2030-01-31\n", ["f:4: expires_at: '2030-01-31' is not a time with an offset"]),
        (WEB + "hint: a\nhint: b\n", ["f:5: hint is there twice, first on line 4 (entry_malformed)"]),
        ("selectors: [unix:uid:1]\n", ["f:1: the entry has no spiffe_id", "f:1: the entry has no parent_id"]),
        ("- web\n", ["f:1: an entry is a map of fields (entry_malformed)"]),
        ("web\n", ["f:1: an entry is a map of fields (entry_malformed)"]),
        (f"a: &x 1\n{WEB}", ["f:1: unknown field 'a'"]),
        (f"{WEB}hint: *x\n", ["f:4: "]),
        (f"{WEB}hint: !!str x\n", ["f:4: aliases (*) and tags (!) are not taken here (entry_malformed)"]),
        ("a: [\n", ["f:2: not YAML: "]),
        (
            f"{WEB}dns: x\n---\n{SHOP}admin: 1\n---\nspiffe_id: http://x\nparent_id: {A1}\n",
            ["f:4: unknown field 'dns'", "f:9: admin: '1' is neither", "f:11: spiffe_id: SPIFFE ID 'http://x'"],
        ),
    ],
)
def test_every_line_that_is_wrong_is_told(text: str, told: list[str]) -> None:
    with pytest.raises(InvalidArgument) as refused:
        read(text)
    lines = refused.value.message.splitlines()
    assert len(lines) == len(told)
    for line, beginning in zip(lines, told, strict=True):
        assert line.startswith(beginning)


def test_the_reason_is_that_of_the_first_line() -> None:
    with pytest.raises(InvalidArgument) as refused:
        read(f"{WEB}---\nspiffe_id: http://x\nparent_id: {A1}\nhnt: x\n")
    assert refused.value.reason is Reason.ID_MALFORMED


def test_what_is_told_is_bounded() -> None:
    with pytest.raises(InvalidArgument) as refused:
        read("---\n".join(f"{WEB}x: 1\n" for _ in range(MOST_TOLD + 7)))
    lines = refused.value.message.splitlines()
    assert (len(lines), lines[-1]) == (MOST_TOLD + 1, "and 7 more")

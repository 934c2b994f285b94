"""However a request spells what it asks for, it is judged as its plain form is, or refused."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from citadel.access.normal import plain_host, plain_method, plain_path, plain_paths
from tests.spellings import HOSTS, NO_PATHS, PATHS, Spelling

_DOCUMENT: Final = Path(__file__).parents[3] / "docs" / "end-users.md"
_CODE: Final = re.compile(r"`([^`]+)`")

# Pieces that paths are confused with; wholly arbitrary texts hardly hold two of them.
pieces = st.sampled_from(
    ["/", "//", "\\", "%2F", "%5c", ".", "..", "%2e", "%2E%2e", ";", "%3b", "?", "#", "%25", "%", "%00", "é", "%c3%a9"]
)
paths = st.builds("/{}".format, st.lists(st.one_of(pieces, st.text("ab*:A", max_size=2)), max_size=12).map("".join))


@pytest.mark.parametrize("spelling", [*PATHS, *NO_PATHS], ids=lambda spelling: spelling.sent)
def test_paths(spelling: Spelling) -> None:
    if spelling.plain is None:
        with pytest.raises(ValueError, match="the path"):
            plain_path(spelling.sent)
    else:
        assert plain_path(spelling.sent) == spelling.plain
        assert plain_paths(spelling.sent) == tuple(filter(None, (spelling.plain, spelling.names)))


@pytest.mark.parametrize("spelling", HOSTS, ids=lambda spelling: spelling.sent)
def test_hosts(spelling: Spelling) -> None:
    if spelling.plain is None:
        with pytest.raises(ValueError, match="the host"):
            plain_host(spelling.sent)
    else:
        assert plain_host(spelling.sent) == spelling.plain


def test_a_request_without_a_host_has_an_empty_one() -> None:
    assert plain_host("") == ""


@pytest.mark.parametrize("method", ["GET", "PROPFIND", "VERSION-CONTROL"])
def test_methods_are_words_in_capitals(method: str) -> None:
    assert plain_method(method) == method


@pytest.mark.parametrize("method", ["", "get", "Get", "GET ", "GET\n", "G3T", "-GET", "GÊT"])
def test_other_methods_are_refused(method: str) -> None:
    with pytest.raises(ValueError, match="the method"):
        plain_method(method)


def test_what_an_escape_stands_for_is_told_from_what_ends_the_path() -> None:
    assert plain_path("/what%3F") == "/what%3F"
    assert plain_path("/c%23") == "/c%23"
    assert plain_path("/100%25") == "/100%25"
    assert plain_path("/a b") == plain_path("/a%20b") == "/a%20b"


def test_parameters_are_part_of_the_names_to_some_programs() -> None:
    assert plain_paths("/a;x=1;/b%3by/;z") == ("/a/b/", "/a%3Bx=1%3B/b%3By/%3Bz")
    assert plain_paths("/a;x/../b") == ("/b",) * 2
    with pytest.raises(ValueError, match="after //"):
        plain_paths("/;x//../b")  # from / and from /;x//


def test_names_that_begin_with_dots_are_names() -> None:
    assert plain_path("/.well-known/keys") == "/.well-known/keys"
    assert plain_path("/a/...") == "/a/..."


def test_a_path_is_not_longer_than_servers_take_it() -> None:
    longest = "/" + "a" * 8191
    assert plain_path(longest) == plain_path(f"{longest}?{longest}") == longest
    for longer in (f"{longest}a", "/" * 8193):
        with pytest.raises(ValueError, match="more than 8192 characters"):
            plain_path(longer)


@given(st.one_of(paths, st.text()))
@example("/a/..;")
@example("/;/../a")
@example("/%25%32%65")
@example("/a/%3B/..")
def test_the_plain_form_is_its_own_and_has_nothing_left_to_resolve(path: str) -> None:
    try:
        plain = plain_path(path)
    except ValueError:
        return
    assert plain_path(plain) == plain
    assert plain.startswith("/")
    assert plain.isascii()
    assert plain.isprintable()
    assert not {".", ".."} & set(plain.split("/"))
    assert not any(mark in plain.lower() for mark in ("//", "\\", "?", "#", ";", "%2f", "%5c", "%2e", "%00", "%3b"))


@settings(max_examples=40)  # each draws much
@given(st.lists(st.text("abz-_~", min_size=1, max_size=5), min_size=1, max_size=5), st.data())
def test_what_is_put_into_a_path_without_meaning_changes_nothing(segments: list[str], data: st.DataObject) -> None:
    noise = st.sampled_from(["/", "//", "/./", "/x/../", "/%2e/", "/%78/%2e./", ";v=1/", ";/"])
    escaped = [data.draw(st.sampled_from([each, f"%{ord(each[0]):02x}{each[1:]}"])) for each in segments]
    spelled = "/" + "".join(each + data.draw(noise) for each in escaped[:-1]) + escaped[-1]
    assert plain_path(spelled) == "/" + "/".join(segments)


@given(st.one_of(st.text(), st.from_regex(r"[a-cA-C.:\[\]0-9]{0,12}", fullmatch=True)))
def test_the_plain_form_of_a_host_is_its_own(host: str) -> None:
    try:
        plain = plain_host(host)
    except ValueError:
        return
    assert plain_host(plain) == plain
    assert plain == plain.lower()
    assert not plain.endswith(".")


def test_the_table_for_people_says_the_same() -> None:
    rows = [line.split(" | ") for line in _DOCUMENT.read_text("utf-8").splitlines() if line.startswith("| `/")]
    cases = [(sent, judged) for first, _, judged in rows for sent in _CODE.findall(first)]
    assert len(cases) > 25
    for sent, judged in cases:
        if "refused" in judged:
            with pytest.raises(ValueError, match="the path"):
                plain_path(sent)
        else:
            assert plain_path(sent) in _CODE.findall(judged), sent

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from citadel.config.types import HostPort
from citadel.errors import InvalidArgument, Reason
from citadel.join_string import JoinString
from citadel.spiffe import TrustDomain

DIGEST = "0123456789abcdef" * 4
TOKEN = "sEcret-Token_1"
GOOD = f"citadel://127.0.0.1:8443/a.test?bundle-sha256={DIGEST}&token={TOKEN}"


@pytest.mark.parametrize(
    ("text", "address"),
    [
        (GOOD, HostPort("127.0.0.1", 8443)),
        (f"  {GOOD}\n", HostPort("127.0.0.1", 8443)),
        (GOOD.replace("127.0.0.1", "ca.example.org"), HostPort("ca.example.org", 8443)),
        (GOOD.replace("127.0.0.1", "[::1]"), HostPort("::1", 8443)),
    ],
)
def test_a_join_string_is_taken_apart_and_put_together_again(text: str, address: HostPort) -> None:
    parsed = JoinString.parse(text)
    assert parsed == JoinString(address=address, trust_domain=TrustDomain("a.test"), bundle_sha256=DIGEST, token=TOKEN)
    assert str(parsed) == text.strip()
    assert TOKEN not in repr(parsed)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "citadel://",
        GOOD.replace("citadel:", "https:"),
        GOOD.replace("citadel:", "CITADEL:"),
        GOOD.replace(":8443", ""),
        GOOD.replace(":8443", ":0"),
        GOOD.replace(":8443", ":99999"),
        GOOD.replace("127.0.0.1", "u@127.0.0.1"),
        GOOD.replace("/a.test", ""),
        GOOD.replace("/a.test", "/A.test"),
        GOOD.replace("/a.test", "/a.test/b"),
        GOOD.replace(DIGEST, DIGEST[:-1]),
        GOOD.replace(DIGEST, DIGEST.upper()),
        GOOD.replace(TOKEN, ""),
        GOOD.replace(TOKEN, f"{TOKEN}%20"),
        GOOD.replace(TOKEN, f"{TOKEN}&more=1"),
        GOOD.replace(TOKEN, "a" * 257),
        f"{GOOD}#x",
        f"{GOOD}\n{GOOD}",
        f"citadel://127.0.0.1:8443/a.test?token={TOKEN}&bundle-sha256={DIGEST}",
    ],
)
def test_anything_else_is_refused_without_repeating_the_token(text: str) -> None:
    with pytest.raises(InvalidArgument) as refused:
        JoinString.parse(text)
    assert refused.value.reason is Reason.JOIN_STRING_MALFORMED
    assert TOKEN not in str(refused.value)


@given(st.one_of(st.text(), st.from_regex(r"citadel://.*:\d+/.*\?bundle-sha256=[0-9a-f]{64}&token=.*", fullmatch=True)))
def test_no_text_does_worse_than_a_refusal(text: str) -> None:
    parsed = parse_or_none(text)
    assert parsed is None or JoinString.parse(str(parsed)) == parsed


def parse_or_none(text: str) -> JoinString | None:
    try:
        return JoinString.parse(text)
    except InvalidArgument:
        return None

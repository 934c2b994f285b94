"""A selector that no attestor can ever say is refused when it is written, not missed when it is needed."""

from __future__ import annotations

import pytest

from citadel.errors import InvalidArgument, Reason
from citadel.selector import Selector
from citadel.workload_selectors import check_workload_selectors

DIGEST = "0123456789abcdef" * 4


@pytest.mark.parametrize(
    "text",
    [
        "unix:uid:0",
        "unix:uid:1000",
        "unix:gid:4294967295",
        "unix:user:web",
        "unix:user:web-1.x",
        "unix:group:www-data",
        "unix:path:/usr/bin/envoy",
        "unix:path:/with space/and:colon",
        f"unix:sha256:{DIGEST}",
        "k8s:ns:shop",
        "k8s:sa:web",
        "k8s:pod-label:app.kubernetes.io/name:web",
        "k8s:pod-label:empty:",
        "k8s:pod-owner:ReplicaSet:web-7d9f",
        "k8s:container-image:example.org/web@sha256:0123",
    ],
)
def test_what_the_attestor_says_is_accepted(text: str) -> None:
    check_workload_selectors([Selector.parse(text)])


@pytest.mark.parametrize(
    "texts",
    [
        ["uid:1"],
        ["unix:1"],
        ["unix:uid"],
        ["unix:uid:"],
        ["unix:uid:root"],
        ["unix:uid:-1"],
        ["unix:uid:01"],
        ["unix:uid:1 "],
        ["unix:shoe:42"],
        ["unix:path:bin/x"],
        ["unix:sha256:zz"],
        [f"unix:sha256:{DIGEST.upper()}"],
        [f"unix:sha256:{DIGEST[:-1]}"],
        ["k8s:shoe:42"],
        ["k8s:ns:"],
        ["k8s:ns:Shop"],
        ["k8s:pod-label:app"],
        ["k8s:ns:a", "k8s:ns:b"],
        ["unix:uid:1", "unix:uid:2"],
        ["unix:user:a", "unix:user:b"],
    ],
)
def test_what_can_never_match_is_refused(texts: list[str]) -> None:
    with pytest.raises(InvalidArgument) as refused:
        check_workload_selectors([Selector.parse(text) for text in texts])
    assert refused.value.reason is Reason.ENTRY_BAD_SELECTOR

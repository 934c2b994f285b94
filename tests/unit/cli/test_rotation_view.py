"""What `citadel-cli rotate` makes of those whom a rotation waits for."""

from __future__ import annotations

import pytest

from citadel._wire import rotation_pb2 as pb
from cli.admin.rotation_view import waits_for


@pytest.mark.parametrize(
    ("holder", "skipped", "is_waited_for"),
    [
        ("node-1", "node-1", True),
        ("node-1/3", "node-1", True),
        ("node-1/3", "node-1/3", True),
        ("node-10", "node-1", False),
        ("node-1", "node-1/3", False),
        ("k8s_psat/main/node-1/3", "k8s_psat/main/node-1", True),
        ("kubernetes/main/bundles", "kubernetes/main/bundles", True),
        ("kubernetes/main/bundles/shop", "kubernetes/main/bundles", True),
        ("kubernetes/main/bundles", "kubernetes/west/bundles", False),
    ],
)
def test_who_is_skipped_is_warned_of_only_where_nothing_of_it_is_waited_for(
    holder: str, skipped: str, is_waited_for: bool
) -> None:
    view = pb.RotationView(holders=[pb.Holder(name=holder)], holder_count=1)
    assert waits_for(view, skipped) is is_waited_for

"""One response for all streams that are sent the same, unless it holds a private key."""

from __future__ import annotations

from typing import Any

import pytest
from envoy.service.discovery.v3 import discovery_pb2

from sds.serve.available import Available
from sds.serve.delta import DeltaSecretStream
from sds.serve.resource import SECRET_TYPE_URL, BundleFacts, Resource, plain_context_resource
from sds.serve.shared import SharedResponses
from sds.serve.stream import SecretStream
from tests.unit.sds.resources import resource


def context(content: bytes) -> Resource:
    return plain_context_resource("ALL", content, BundleFacts("a.test", 1))


def asking(kind: str, shared: SharedResponses, name: str) -> Any:
    if kind == "sotw":
        stream: Any = SecretStream(shared=shared)
        stream.on_request(discovery_pb2.DiscoveryRequest(type_url=SECRET_TYPE_URL, resource_names=[name]))
    else:
        stream = DeltaSecretStream(shared=shared)
        asked = discovery_pb2.DeltaDiscoveryRequest(type_url=SECRET_TYPE_URL, resource_names_subscribe=[name])
        stream.on_request(asked)
    return stream


@pytest.mark.parametrize("kind", ["sotw", "delta"])
def test_streams_that_are_sent_the_same_bundle_share_the_message(kind: str) -> None:
    shared = SharedResponses()
    streams = [asking(kind, shared, "ALL") for _ in range(3)]
    for content in (b"one", b"two"):
        first, *others = [stream.offer(Available({"ALL": context(content)})) for stream in streams]
        assert all(other is first for other in others)
        assert content in first.SerializeToString()
        assert first.nonce


@pytest.mark.invariant(1)
@pytest.mark.parametrize("kind", ["sotw", "delta"])
def test_what_holds_a_private_key_is_not_kept(kind: str) -> None:
    shared = SharedResponses()
    one, two = (asking(kind, shared, "default").offer(Available({"default": resource("default")})) for _ in range(2))
    assert one == two
    assert one is not two
    assert not shared._made


def test_few_are_remembered() -> None:
    shared = SharedResponses()
    for number in range(50):
        asking("sotw", shared, "ALL").offer(Available({"ALL": context(b"%d" % number)}))
    assert len(shared._made) == 16

"""Resources made by hand for tests of the machines behind SDS streams."""

from __future__ import annotations

from datetime import timedelta

from google.protobuf.any_pb2 import Any as PackedMessage

from sds.serve.resource import SECRET_TYPE_URL, Resource, SvidFacts
from tests.certificates import NOW

CODE_INTERNAL = 13


def resource(name: str, version: str = "1") -> Resource:
    facts = SvidFacts(f"spiffe://a.test/{name}", version, NOW + timedelta(hours=1))
    return Resource(name, version, facts, PackedMessage(type_url=SECRET_TYPE_URL, value=f"{name}={version}".encode()))


def offered(**versions: str) -> dict[str, Resource]:
    return {name: resource(name, version) for name, version in versions.items()}

"""A foreign bundle that is trusted no longer is replaced at the proxies that have it: no Envoy forgets a secret."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest
from cryptography import x509
from envoy.extensions.transport_sockets.tls.v3 import secret_pb2, tls_spiffe_validator_config_pb2
from envoy.service.discovery.v3 import discovery_pb2

from citadel.bundle import TrustBundle
from citadel.entry import Entry
from sds.holdings import Holdings
from sds.serve.available import Available
from sds.serve.delta import DeltaSecretStream
from sds.serve.resource import SECRET_TYPE_URL
from sds.serve.secrets import SecretShelf
from sds.serve.stream import SecretStream
from tests import certificates
from tests.certificates import A_TEST, B_TEST, NOW
from tests.unit.sds.holding import UID_1, entry, held, holdings, own_bundle

NAME = "spiffe://b.test"
FOREIGN = certificates.root("root b.test", NAME)
BUNDLE = certificates.bundle(FOREIGN, trust_domain=B_TEST, sequence=7)
FEDERATED, ALONE = entry("web", federates_with=frozenset({B_TEST})), entry("web")
SVID, OWN = held(ALONE), own_bundle()

pytestmark = [pytest.mark.invariant(9), pytest.mark.spec("FED-41")]


class Node:
    """What a caller may have, as it changes."""

    def __init__(self) -> None:
        self.shelf = SecretShelf(trust_domain=A_TEST)

    def available(self, web: Entry | None, *bundles: TrustBundle) -> Available:
        if web is None:  # the server has not told its entries
            return self.shelf.available(Holdings(bundles={A_TEST: OWN}), frozenset({UID_1}), NOW)
        return self.shelf.available(holdings([web], [SVID], OWN, *bundles), frozenset({UID_1}), NOW)


class Proxy:
    """Keeps what it was sent, and forgets nothing, as Envoy does."""

    def __init__(self, kind: str, *names: str, brings: bool = False) -> None:
        self.is_delta = kind == "delta"
        self.stream: Any = DeltaSecretStream() if self.is_delta else SecretStream()
        self.secrets: dict[str, secret_pb2.Secret] = {}
        self.pushes = 0
        if self.is_delta:
            versions = dict.fromkeys(names, "from before") if brings else {}
            request: Any = discovery_pb2.DeltaDiscoveryRequest(
                type_url=SECRET_TYPE_URL, resource_names_subscribe=names, initial_resource_versions=versions
            )
        else:
            version = "from before" if brings else ""
            request = discovery_pb2.DiscoveryRequest(
                type_url=SECRET_TYPE_URL, resource_names=names, version_info=version
            )
        self.names = names
        self.stream.on_request(request)

    def take(self, available: Available) -> bool:
        response = self.stream.offer(available)
        if response is None:
            return False
        self.pushes += 1
        for each in response.resources:
            secret = secret_pb2.Secret()
            assert (each.resource if self.is_delta else each).Unpack(secret)
            self.secrets[secret.name] = secret
        answer: dict[str, Any] = {"type_url": SECRET_TYPE_URL, "response_nonce": response.nonce}
        if self.is_delta:
            self.stream.on_request(discovery_pb2.DeltaDiscoveryRequest(**answer))
        else:
            answer |= {"resource_names": self.names, "version_info": response.version_info}
            self.stream.on_request(discovery_pb2.DiscoveryRequest(**answer))
        return True

    def trusts(self, name: str = NAME) -> Mapping[str, bytes]:
        config = tls_spiffe_validator_config_pb2.SPIFFECertValidatorConfig()
        assert self.secrets[name].validation_context.custom_validator_config.typed_config.Unpack(config)
        return {each.name: each.trust_bundle.inline_bytes for each in config.trust_domains}


def trusts_nothing(proxy: Proxy) -> bool:
    (pem,) = proxy.trusts().values()
    return pem != FOREIGN.pem and x509.load_pem_x509_certificate(pem).subject != FOREIGN.certificate.subject


each_kind = pytest.mark.parametrize("kind", ["sotw", "delta"])


@each_kind
@pytest.mark.parametrize("how", ["the bundle is gone", "the entry federates no longer"])
def test_who_has_a_bundle_that_is_trusted_no_longer_is_sent_nothing_to_trust_once(kind: str, how: str) -> None:
    node, proxy = Node(), Proxy(kind, NAME)
    proxy.take(node.available(FEDERATED, BUNDLE))
    assert proxy.trusts() == {"b.test": FOREIGN.pem}
    ended = node.available(FEDERATED) if how == "the bundle is gone" else node.available(ALONE)
    assert proxy.take(ended)
    assert trusts_nothing(proxy)
    assert not proxy.take(ended)


@each_kind
def test_a_bundle_that_comes_back_is_sent_again(kind: str) -> None:
    node, proxy = Node(), Proxy(kind, NAME)
    for bundles in ([BUNDLE], [], [BUNDLE]):
        assert proxy.take(node.available(FEDERATED, *bundles))
    assert proxy.trusts() == {"b.test": FOREIGN.pem}


@each_kind
def test_who_federates_before_a_bundle_is_known_is_not_kept_waiting(kind: str) -> None:
    node, proxy = Node(), Proxy(kind, NAME)
    assert proxy.take(node.available(FEDERATED))
    assert trusts_nothing(proxy)
    assert proxy.take(node.available(FEDERATED, BUNDLE))
    assert proxy.trusts() == {"b.test": FOREIGN.pem}


@each_kind
def test_who_does_not_federate_waits_for_a_name_that_it_was_never_sent(kind: str) -> None:
    proxy = Proxy(kind, NAME)
    proxy.take(Node().available(ALONE, BUNDLE))
    assert not proxy.secrets


@each_kind
def test_who_brings_it_from_an_earlier_stream_is_sent_nothing_to_trust(kind: str) -> None:
    """An agent that was started anew does not know what it sent before."""
    node, proxy = Node(), Proxy(kind, NAME, brings=True)
    assert proxy.take(node.available(FEDERATED))
    assert trusts_nothing(proxy)


@each_kind
@pytest.mark.invariant(5)
def test_an_agent_that_has_not_heard_its_server_takes_nothing_from_anybody(kind: str) -> None:
    proxy = Proxy(kind, NAME, brings=True)
    assert not proxy.take(Node().available(None))


@each_kind
@pytest.mark.invariant(8)
def test_what_is_withdrawn_takes_nothing_from_the_other_names_of_the_stream(kind: str) -> None:
    node, proxy = Node(), Proxy(kind, "default", NAME, "ALL")
    proxy.take(node.available(FEDERATED, BUNDLE))
    assert proxy.trusts("ALL").keys() == {"a.test", "b.test"}
    before = proxy.secrets["default"]
    proxy.take(node.available(FEDERATED))
    assert (set(proxy.trusts("ALL")), proxy.secrets["default"]) == ({"a.test"}, before)
    assert trusts_nothing(proxy)


@each_kind
def test_who_cannot_be_seen_whole_loses_what_it_was_sent_and_keeps_what_it_brought_while_that_may_be_right(
    kind: str,
) -> None:
    """As a user without a name: it may yet turn out to match an entry that federates."""
    node = Node()
    for brings, gone, replaced in ((False, False, True), (True, False, False), (True, True, True)):
        proxy = Proxy(kind, NAME, brings=brings)
        if not brings:
            proxy.take(replace(node.available(FEDERATED, BUNDLE), is_known=False))
        proxy.take(replace(node.available(ALONE, *([] if gone else [BUNDLE])), is_known=False))
        assert (bool(proxy.secrets) and trusts_nothing(proxy)) is replaced


@pytest.mark.parametrize("name", ["spiffe://a.test", "spiffe://b.test/web", "spiffe://", "spiffe://B", "b.test", "ALL"])
def test_nothing_is_said_under_other_names(name: str) -> None:
    there = Node().available(ALONE)
    assert there.withdrawing(sent=[name], brought=[name]) == there.resources

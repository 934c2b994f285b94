"""What a real Envoy makes of URI name constraints, on which shared roots and the words of `trust verify` rely."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

import pytest
from cryptography import x509

from citadel.name_constraints import forbidding, is_refused_by_envoy
from citadel.spiffe import SpiffeId, TrustDomain
from tests.certificates import Signed, excluded, intermediate, leaf, permitted, root
from tests.clusters.intruder import let_in
from tests.envoy_doors import TLS, door, running_envoy
from tests.ports import free_port

pytestmark = pytest.mark.integration

_NOW: Final = datetime.now(UTC)
_VALID: Final[dict[str, Any]] = {"not_before": _NOW - timedelta(minutes=5), "not_after": _NOW + timedelta(days=1)}
# Constraints of the authority, the identity that it signs, and whether a proxy that has its root is to take that.
CASES: Final[Sequence[tuple[tuple[x509.ExtensionType, bool] | None, str, bool]]] = (
    (None, "spiffe://b.test/web", True),
    (permitted("b.test"), "spiffe://b.test/web", True),
    (permitted("b.test"), "spiffe://a.test/web", False),
    (permitted("b.test"), "spiffe://west.b.test/web", False),
    (permitted(".b.test"), "spiffe://west.b.test/web", True),
    (permitted(".b.test"), "spiffe://b.test/web", False),
    (permitted("a.test", "b.test"), "spiffe://a.test/web", True),
    (excluded("a.test"), "spiffe://b.test/web", True),
    (excluded("a.test"), "spiffe://a.test/web", False),
    (permitted("west"), "spiffe://west/web", True),
    (permitted("b_c.test"), "spiffe://b_c.test/web", False),
    (permitted("10.1.2.3"), "spiffe://10.1.2.3/web", False),
    (None, "spiffe://b_c.test/web", True),
)


@pytest.fixture
async def doors(tmp_path: Path) -> AsyncIterator[tuple[Signed, list[int]]]:
    """A root, and the ports of an Envoy that trusts it: by a plain `trusted_ca`, and by the SPIFFE validator."""
    top, ports = root("shared", uri=None, **_VALID), [free_port(), free_port()]
    pem = {"inline_string": top.pem.decode()}
    domains = sorted({SpiffeId.parse(uri).trust_domain.name for _, uri, _ in CASES})
    spiffe = {
        "@type": f"{TLS}.SPIFFECertValidatorConfig",
        "trust_domains": [{"name": name, "trust_bundle": pem} for name in domains],
    }
    contexts = [
        {"trusted_ca": pem},
        {"custom_validator_config": {"name": "envoy.tls.cert_validator.spiffe", "typed_config": spiffe}},
    ]
    own = leaf(top, "spiffe://a.test/server", **_VALID)
    listeners = [door(port, own.key, own.pem.decode(), context) for port, context in zip(ports, contexts, strict=True)]
    async with running_envoy(tmp_path, listeners):
        yield top, ports


async def test_envoy_takes_what_constraints_permit_and_trust_verify_says_the_same(
    doors: tuple[Signed, list[int]],
) -> None:
    top, ports = doors
    for constraints, uri, is_taken in CASES:
        signer = intermediate(top, uri=None, extra=[constraints] if constraints else [], **_VALID)
        chain = [leaf(signer, uri, **_VALID), signer]
        seen = await asyncio.gather(*(let_in(("127.0.0.1", port), chain) for port in ports))
        assert seen == [is_taken, is_taken], (constraints, uri)
        domain = TrustDomain.parse(uri.split("/")[2])
        refused = constraints is not None and is_refused_by_envoy(domain)
        assert (forbidding([signer.certificate, top.certificate], domain) is None and not refused) == is_taken

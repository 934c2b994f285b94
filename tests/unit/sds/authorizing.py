"""Policies at work without a file that changes, and what a proxy asks."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

from envoy.service.auth.v3 import external_auth_pb2

from citadel.access import rules
from citadel.access.loading import load_policies
from citadel.clock import Clock
from citadel.jwt.validator import KeyRing
from citadel.svid import X509Svid
from sds.authz.policies import Policies
from tests.certificates import Signed
from tests.end_users import AUDIENCE, ISSUER, InlineRing, SigningKey, jwks

KEY: Final = SigningKey.p256()
JWT_RULE: Final[Mapping[str, Any]] = {
    "issuer": ISSUER,
    "audiences": [AUDIENCE],
    "jwks": json.dumps(jwks(KEY)),
    "outputClaimToHeaders": [{"header": "x-end-user", "claim": "sub"}],
}
SIGNED_IN: Final[Mapping[str, Any]] = {
    "name": "signed-in",
    "action": "ALLOW",
    "rules": [{"from": [{"source": {"requestPrincipals": ["*"]}}], "to": [{"operation": {"paths": ["/private/*"]}}]}],
}
OPEN: Final[Mapping[str, Any]] = {
    "name": "open",
    "action": "ALLOW",
    "rules": [{"to": [{"operation": {"paths": ["/public/*"]}}]}],
}
POLICY: Final[Mapping[str, Any]] = {
    "name": "web",
    "selectors": ["unix:uid:1"],
    "jwtRules": [JWT_RULE],
    "authorization": [SIGNED_IN, OPEN],
}


def write_policies(path: Path, *policies: Mapping[str, Any]) -> Path:
    """A document of these policies; JSON is YAML too."""
    path.write_text(json.dumps({"policies": policies}, indent=1))
    return path


class FixedPolicies:
    """Fulfils `sds.authz.service.PolicySource` with what it was given last; nothing for anybody at first."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self.keys_version = 0
        self.current = self._at_work(rules.Policies(policies=(), leeway=timedelta(seconds=10)), InlineRing())

    def take(self, folder: Path, *policies: Mapping[str, Any], keys: KeyRing | None = None) -> None:
        document = load_policies(write_policies(folder / "policies.yaml", *policies))
        self.current = self._at_work(document, keys or InlineRing())

    def _at_work(self, document: rules.Policies, keys: KeyRing) -> Policies:
        return Policies(document, keys=keys, keys_version=lambda: self.keys_version, clock=self._clock)


def question(
    path: str = "/public/a", *, peer: Signed | None = None, principal: str | None = None, **headers: str
) -> Any:
    """What a proxy asks about a GET of `path`; `peer` is the certificate of whoever sent it."""
    asked = external_auth_pb2.CheckRequest()
    http = asked.attributes.request.http
    http.method, http.host, http.path = "GET", "web.test", path
    http.headers.update({name.replace("_", "-"): value for name, value in headers.items()})
    if peer is not None:
        asked.attributes.source.certificate = quote(peer.pem.decode())
        asked.attributes.source.principal = spiffe_id_of(peer)
    if principal is not None:
        asked.attributes.source.principal = principal
    return asked


def spiffe_id_of(signed: Signed) -> str:
    """The URI of a leaf."""
    return str(X509Svid.from_der([signed.der]).spiffe_id)

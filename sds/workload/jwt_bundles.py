"""JWT bundles as the Workload API has them: JSON Web Key Sets by trust domain, with JWT authorities alone (WAPI-37)."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping

from citadel._wire import types_pb2
from citadel._wire import workload_pb2 as pb
from citadel.bundle import TrustBundle
from citadel.jwk import jwk_from_key
from citadel.spiffe import TrustDomain
from citadel.wire import sequence_on_wire
from sds.workload.answer import Answer


def jwk_set(bundle: TrustBundle) -> bytes:
    """The JWT authorities of `bundle`.

    Without `use`: all of them are for JWT-SVIDs here, and libraries that know no SPIFFE take a `use` that they do not
    know for a key that is not theirs. No standard says which is right; SPIRE leaves it out too.
    """
    keys = [{"kid": kid, **jwk_from_key(key)} for kid, key in bundle.jwt_authorities.items()]
    return json.dumps({"keys": keys}, sort_keys=True, separators=(",", ":")).encode("ascii")


def jwt_bundles(
    sets: Mapping[TrustDomain, tuple[TrustBundle, bytes]], *, own: TrustDomain
) -> Answer[pb.JWTBundlesResponse] | None:
    """The answer of these bundles and their key sets; None while the own one is unknown (WAPI-36).

    A foreign domain without any key has no JWT-SVIDs (JWT-28), and is left out as it is among X.509 bundles.
    """
    if own not in sets:
        return None
    told = {domain: pair for domain, pair in sets.items() if domain == own or pair[0].jwt_authorities}
    message = pb.JWTBundlesResponse(bundles={str(domain.id): keys for domain, (_, keys) in told.items()})
    return Answer(message, [_report(bundle, keys) for bundle, keys in told.values()])


def _report(bundle: TrustBundle, keys: bytes) -> types_pb2.ResourceReport:
    # The name is not that of the X.509 bundle, which a process can hold beside it.
    return types_pb2.ResourceReport(
        name=f"{bundle.trust_domain.id} (JWT)",
        version=hashlib.sha256(keys).hexdigest()[:16],
        trust_domain=bundle.trust_domain.name,
        bundle_sequence=sequence_on_wire(bundle),
        jwt_bundle=True,
    )

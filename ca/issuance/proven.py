"""What is asked for identities that a platform has proved: no entry and no agent stands for them."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass
from datetime import timedelta

from ca.issuance.csr import WorkloadPublicKey, accepted, public_key_of
from ca.issuance.lifetime import LifetimePolicy
from citadel.errors import PermissionDenied, Reason
from citadel.reserved import is_reserved_id
from citadel.spiffe import SpiffeId


@dataclass(frozen=True, slots=True, kw_only=True)
class ProvenRequest:
    """One item of a batch. Whoever makes it has had `spiffe_id` from the platform, and not from the request.

    `key` is a PKCS#10 request in DER, of which the public key alone is used, or a key whose holder the platform has
    seen to have it. `lifetime` is None for the policy's default, and never more than its cap. `requested_by` is how the
    ledger names the platform (`citadel.reserved.k8s_door_id`); the same object for all requests of one door.
    `charged_to` is who asks, and may have so many certificates a second as an agent may.
    """

    spiffe_id: SpiffeId
    key: bytes | WorkloadPublicKey
    policy: LifetimePolicy
    requested_by: SpiffeId
    charged_to: Hashable
    lifetime: timedelta | None = None
    dns_names: tuple[str, ...] = ()

    def refuse_reserved(self) -> None:
        """Raises `PermissionDenied` (`entry_reserved_id`) for what no platform can prove (invariant 13)."""
        if is_reserved_id(self.spiffe_id) or not self.spiffe_id.is_member_of(self.requested_by.trust_domain):
            raise PermissionDenied(Reason.ENTRY_RESERVED_ID, f"{self.spiffe_id} is no identity of a workload here")

    def public_key(self) -> WorkloadPublicKey:
        """The key to certify. Raises as `ca.issuance.csr.public_key_of`."""
        return public_key_of(self.key) if isinstance(self.key, bytes) else accepted(self.key)

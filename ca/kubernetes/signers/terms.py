"""By what terms requests of one cluster are answered."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta

from ca.issuance.lifetime import LifetimePolicy
from citadel.kubernetes.settings import NamespaceSettings
from citadel.spiffe import SpiffeId, TrustDomain


@dataclass(frozen=True, slots=True, kw_only=True)
class Terms:
    """`policy` has the lifetimes; `longest_issuer` is how long what signs lives at all. `door` is the ledger's name."""

    signer_name: str
    trust_domain: TrustDomain
    namespaces: NamespaceSettings
    policy: LifetimePolicy
    longest_issuer: timedelta
    door: SpiffeId

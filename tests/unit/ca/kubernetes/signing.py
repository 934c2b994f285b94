"""What tests of signers share: their terms, the pods of a cluster, and an issuer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import timedelta

from cryptography import x509
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding

from ca.issuance.lifetime import LifetimePolicy, settle
from ca.issuance.press import IssuedSvid
from ca.issuance.proven import ProvenRequest
from ca.kubernetes.pods import Pod
from ca.kubernetes.signers.terms import Terms
from citadel.errors import CitadelError
from citadel.kubernetes.settings import NamespaceSettings
from citadel.reserved import k8s_door_id
from citadel.spiffe import TrustDomain
from tests.clock import FakeClock
from tests.csrs import new_key

SIGNER = "a.test/workload"
DOMAIN = TrustDomain("a.test")


def terms(
    *,
    namespaces: NamespaceSettings | None = None,
    default: timedelta = timedelta(days=1),
    cap: timedelta = timedelta(days=1),
    backdate: timedelta = timedelta(seconds=10),
    longest_issuer: timedelta = timedelta(days=7),
) -> Terms:
    return Terms(
        signer_name=SIGNER,
        trust_domain=DOMAIN,
        namespaces=namespaces or NamespaceSettings(exclude=("kube-system",)),
        policy=LifetimePolicy(default=default, own=default, cap=cap, backdate=backdate),
        longest_issuer=longest_issuer,
        door=k8s_door_id(DOMAIN, "main", "test"),
    )


def pod(uid: str, name: str, *, account: str = "web", phase: str = "Running") -> Pod:
    return Pod(
        namespace="shop",
        name=name,
        uid=uid,
        node="n1",
        service_account=account,
        labels=(),
        owners=(),
        phase=phase,
        ips=(),
    )


def _pods() -> dict[str, Pod]:
    known: Sequence[Pod] = (
        pod("u-pod", "web-1"),
        pod("u-other", "api-1", account="api"),
        pod("u-ended", "job-1", phase="Succeeded"),
    )
    return {each.uid: each for each in known}


@dataclass
class KnownPods:
    """The pods of a cluster, all on node n1 in namespace shop: web-1 of web, api-1 of api, and job-1 that ended.

    What stands in `untold` only its API server says, when it is asked; that `fails` where it is set.
    """

    has_synced: bool = True
    trouble: CitadelError | None = None
    known: dict[str, Pod] = field(default_factory=_pods)
    untold: dict[str, Pod] = field(default_factory=dict)
    fails: CitadelError | None = None

    def with_uid(self, uid: str) -> Pod | None:
        return self.known.get(uid)

    async def asked(self, namespace: str, name: str, uid: str) -> Pod | None:
        if self.fails is not None:
            raise self.fails
        pod = {**self.known, **self.untold}.get(uid)
        return pod if pod is not None and pod.key == f"{namespace}/{name}" else None

    async def until_synced(self) -> None:
        pass


@dataclass
class FakeIssuer:
    """Signs whatever it is asked for, or has an `outcome` for all. What it has signed stands in `signed`."""

    clock: FakeClock
    outcome: CitadelError | None = None
    signed: list[str] = field(default_factory=list)

    async def issue_proven(self, requests: Sequence[ProvenRequest]) -> list[IssuedSvid | CitadelError]:
        return [self.outcome or self._sign(each) for each in requests]

    def _sign(self, request: ProvenRequest) -> IssuedSvid:
        now = self.clock.now()
        validity = settle(
            now=now,
            policy=request.policy,
            asked=request.lifetime,
            entry_expires_at=None,
            issuer_not_before=now - timedelta(days=1),
            issuer_not_after=now + timedelta(days=7),
        )
        name = x509.Name([])
        builder = x509.CertificateBuilder(name, name, request.public_key(), x509.random_serial_number())
        leaf = (
            builder.not_valid_before(validity.not_before).not_valid_after(validity.not_after).sign(new_key(), SHA256())
        )
        self.signed.append(str(request.spiffe_id))
        return IssuedSvid(
            spiffe_id=request.spiffe_id,
            chain_der=(leaf.public_bytes(Encoding.DER),),
            not_after=validity.not_after,
            limited_by=validity.limited_by,
        )

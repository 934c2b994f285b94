"""The credentials of one cluster: who may have which, and what they are now."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from random import SystemRandom
from typing import Final, Protocol

from ca.kubernetes.following import Basis
from ca.kubernetes.gateways.condition import STATES, GatewayCondition
from ca.kubernetes.gateways.credential import Credential
from ca.kubernetes.gateways.events import EventReporter, SecretFault
from ca.kubernetes.gateways.followed import Followed
from ca.kubernetes.gateways.gateway import Gateway
from ca.kubernetes.gateways.rights import Reading, Right
from ca.kubernetes.gateways.secret import Judged, Part, SecretName, WatchedSecret
from ca.kubernetes.gateways.wanted import WantedSecrets
from ca.kubernetes.note import Note
from ca.kubernetes.settings import GatewaySettings
from citadel.clock import Clock
from citadel.errors import CitadelError, NotFound, PermissionDenied, Reason, Unavailable
from citadel.kubernetes.credential_names import CredentialName
from citadel.kubernetes.ports import KubernetesApi
from citadel.places import Asker

_MOST_SECRETS: Final = 500  # each is a connection of its own to the API server
_MOST_RIGHTS: Final = 5_000
_SHARES: Final = 8  # of both an eighth is a namespace's own
_MOST_NOTES: Final = 10
_QUESTIONS_AT_ONCE: Final = 8


class Pod(Protocol):
    """What is asked of a pod."""

    @property
    def service_account(self) -> str: ...


class PodBook(Protocol):
    """Knows the pods of the cluster; `ca.kubernetes.pods` is the one there is."""

    @property
    def has_synced(self) -> bool: ...

    def with_uid(self, uid: str) -> Pod | None: ...


@dataclass(frozen=True, slots=True)
class Answer:
    """What a gateway is to have; `fault` is what is wrong with what was written since, where something is."""

    credential: Credential
    fault: CitadelError | None = None


class GatewayCluster:
    """Answers at once from what is known, and wakes whoever asked when that changes."""

    def __init__(
        self,
        name: str,
        settings: GatewaySettings,
        *,
        api: KubernetesApi,
        pods: PodBook,
        clock: Clock,
        draw: Callable[[], float] | None = None,
    ) -> None:
        self.name = name
        self._settings = settings
        self._pods = pods
        turn = asyncio.Semaphore(1)  # to read a secret: it holds the interpreter's lock anyway
        at_once, draw = asyncio.Semaphore(_QUESTIONS_AT_ONCE), draw or SystemRandom().random
        self._events = EventReporter(name, api=api, clock=clock)
        self._rights: Followed[Reading, Right] = Followed(
            lambda reading: Right(reading, api=api, at_once=at_once, draw=draw, clock=clock),
            asker=lambda reading: Asker(reading.account_namespace, reading.account),
            most=_MOST_RIGHTS,
            share=_MOST_RIGHTS // _SHARES,
            what="rights to secrets",
            clock=clock,
        )
        self._secrets: Followed[SecretName, WatchedSecret] = Followed(
            lambda secret: WatchedSecret(secret, api=api, turn=turn, clock=clock),
            # Who may read those of others has that from their owners: what is too much there is theirs.
            asker=lambda secret: Asker(secret.namespace),
            most=_MOST_SECRETS,
            share=_MOST_SECRETS // _SHARES,
            what="secrets",
            clock=clock,
        )
        self._wanted = WantedSecrets(self._secrets.held, clock=clock)

    @property
    def basis(self) -> Basis:
        """What it rests on beside the pods."""
        return Basis("some of the secrets that its gateways want", "secrets", self._wanted)

    async def run(self) -> None:
        """Follow what is wanted, and tell of what is wrong with it, until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            for part in (self._rights, self._secrets, self._events):
                tasks.create_task(part.run())

    def look(self, gateway: Gateway, name: CredentialName, holder: asyncio.Event) -> Answer | None:
        """What the gateway is to have under this name now; None while that is being found out. Wakes `holder` later.

        Raises `PermissionDenied` where it may not have it, `InvalidArgument` (`credential_invalid`) and `NotFound`
        where there is nothing good, `Unavailable` where nobody can say, and `ResourceExhausted`.
        """
        namespace, account = name.namespace or gateway.namespace, self._account_of(gateway)
        if not self._settings.namespaces.admits(namespace):
            raise PermissionDenied(
                Reason.CREDENTIAL_NOT_ALLOWED,
                f"the settings of {self.name} admit no secrets of the namespace {namespace}",
                fix="compare gateways.namespaces in the server's settings",
            )
        readings = [Reading(gateway.namespace, account, namespace, secret) for secret in name.secrets]
        rights = self._rights.get_any(readings, holder)
        if all(right.is_allowed is False for right in rights):
            raise _may_not(gateway, account, SecretName(namespace, name.secrets[-1]))
        for right in rights:
            if right.is_allowed is None:
                return self._not_yet(right.trouble)
        secrets = self._secrets.get_any([SecretName(namespace, secret) for secret in name.secrets], holder)
        for right, secret in zip(rights, secrets, strict=True):
            if secret.exists is None:
                return self._not_yet(secret.trouble)
            if secret.exists:
                if not right.is_allowed:
                    raise _may_not(gateway, account, secret.name)
                return self._of(secret, Part.AUTHORITIES if name.is_authorities else Part.CERTIFICATE)
        raise NotFound(
            Reason.CREDENTIAL_UNKNOWN,
            f"there is no secret {' or '.join(name.secrets)} in the namespace {namespace} of {self.name}",
            fix="create it as a TLS or generic secret",
        )

    def settle(self, holder: asyncio.Event) -> None:
        """The holder wants what it looked at since it last settled, and nothing else."""
        self._rights.settle(holder)
        self._secrets.settle(holder)

    def condition(self) -> GatewayCondition:
        """How it is with what gateways want."""
        counted = Counter(judged.state for _, judged in self._judged())
        counted["missing"] = sum(secret.exists is False for secret in self._secrets.held())
        return GatewayCondition(counts={state: counted[state] for state in STATES})

    def notes(self) -> Iterator[Note]:
        """What is wrong with which secrets; no trouble of the cluster's, so a few of them."""
        faults = sorted(
            f"secret {secret.name}: {judged.fault.message}" + (" (the last good one is served)" if judged.good else "")
            for secret, judged in self._judged()
            if judged.fault is not None
        )
        yield from map(Note, faults[:_MOST_NOTES])

    def _of(self, secret: WatchedSecret, part: Part) -> Answer:
        judged = secret.ask(part)
        if judged.fault is not None:
            self._events.note(
                SecretFault(secret=secret.name, uid=secret.uid, fault=judged.fault, is_served=judged.good is not None)
            )
        if judged.good is None:
            raise judged.fault or AssertionError("what was judged is good or has a fault")
        return Answer(judged.good, judged.fault)

    def _judged(self) -> Iterator[tuple[WatchedSecret, Judged]]:
        for secret in self._secrets.held():
            for judged in secret.asked():
                yield secret, judged

    @staticmethod
    def _not_yet(trouble: CitadelError | None) -> Answer | None:
        if trouble is not None:
            raise trouble
        return None

    def _account_of(self, gateway: Gateway) -> str:
        if (pod := self._pods.with_uid(gateway.uid)) is not None:
            return pod.service_account
        if not self._pods.has_synced:
            raise Unavailable(Reason.KUBERNETES_UNAVAILABLE, f"the pods of {self.name} are not known yet")
        raise PermissionDenied(Reason.K8S_POD_UNKNOWN, f"there is no {gateway} any more")


def _may_not(gateway: Gateway, account: str, secret: SecretName) -> PermissionDenied:
    return PermissionDenied(
        Reason.CREDENTIAL_NOT_ALLOWED,
        f"service account {gateway.namespace}/{account} may not get the secret {secret}",
        fix="bind it to a Role there that may get secrets",
    )

"""Whose certificate it is: the service account, as the API server says it (pure)."""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass
from typing import Final

from citadel.errors import InvalidArgument, PermissionDenied, Reason
from citadel.kubernetes.settings import NamespaceSettings
from citadel.spiffe import SpiffeId, TrustDomain

_USERNAME: Final = re.compile(
    r"system:serviceaccount:([a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?):([a-z0-9](?:[a-z0-9.-]{0,251}[a-z0-9])?)"
)
_GROUP: Final = "system:serviceaccounts"


@dataclass(frozen=True, slots=True)
class Account:
    """A service account."""

    namespace: str
    name: str

    def __str__(self) -> str:
        return f"{self.namespace}/{self.name}"


def account_of(username: str, groups: Collection[str]) -> Account:
    """The service account that a user is. Raises `PermissionDenied` (`k8s_account_not_allowed`) where it is none."""
    found = _USERNAME.fullmatch(username)
    if found is None or not {_GROUP, f"{_GROUP}:{found[1]}"} <= {*groups}:
        raise PermissionDenied(
            Reason.K8S_ACCOUNT_NOT_ALLOWED,
            f"the request is by {username[:200]!r}, which is no service account",
            fix="have it made by the service account whose identity is wanted",
        )
    return Account(found[1], found[2])


def identity_of(account: Account, namespaces: NamespaceSettings, trust_domain: TrustDomain) -> SpiffeId:
    """Its SPIFFE ID.

    Raises `PermissionDenied` (`k8s_account_not_allowed`) where its namespace is not meant, or its names make no ID.
    """
    if not namespaces.admits(account.namespace):
        raise PermissionDenied(
            Reason.K8S_ACCOUNT_NOT_ALLOWED, f"the server's settings do not admit namespace {account.namespace}"
        )
    try:
        return trust_domain.member("ns", account.namespace, "sa", account.name)
    except InvalidArgument as error:
        raise PermissionDenied(
            Reason.K8S_ACCOUNT_NOT_ALLOWED, f"service account {account} makes no SPIFFE ID: {error.message}"
        ) from error

"""Who else writes a ConfigMap that is kept here, and how a person ends that."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Final

import structlog

from citadel.errors import CitadelError
from citadel.kubernetes.ports import FIELD_MANAGER, KubeObject, KubernetesApi
from citadel.kubernetes.reading import part, parts

_ISTIOS: Final = "istio-ca-root-cert"

_log = structlog.get_logger(__name__)


def writers_of(found: KubeObject) -> set[str]:
    """The field managers that hold data of this ConfigMap, as `get` answers it."""
    entries = parts(part(found, "metadata"), "managedFields")
    return {str(each.get("manager")) for each in entries if "f:data" in part(each, "fieldsV1")}


def ending(name: str) -> str:
    """How to have one writer alone of ConfigMaps of this name."""
    if name == _ISTIOS:
        return "set ENABLE_CA_SERVER=false for istiod, or leave it out of `bundles.config_maps`"
    return "let one of the two write it, or give ours another name"


class Rivals:
    """Finds out who else writes ConfigMaps of one `name`, a few of which tell of all."""

    def __init__(self, api: KubernetesApi, name: str, *, most: int) -> None:
        self._api = api
        self._name = name
        self._most = most
        self._found: dict[str, frozenset[str]] = {}

    @property
    def found(self) -> Mapping[str, frozenset[str]]:
        """By namespace; nobody where the API server does not say."""
        return self._found

    async def look(self, namespace: str, *, disputed: Collection[str]) -> None:
        """Find out who has written the one that stands there now, and log it once; forget what is not `disputed`."""
        self._found = {at: found for at, found in self._found.items() if at in disputed}
        if self._found.get(namespace) or (namespace not in self._found and len(self._found) >= self._most):
            return
        try:
            # As a list of one, which the right to follow it allows.
            listed = await self._api.get(
                f"/api/v1/namespaces/{namespace}/configmaps?fieldSelector=metadata.name%3D{self._name}"
            )
        except CitadelError:
            listed = {}
        managers = {manager for each in parts(listed, "items") for manager in writers_of(each)} - {FIELD_MANAGER}
        if namespace not in self._found or managers:
            _log.warning(
                "a ConfigMap with the trust bundle is written by somebody else too",
                namespace=namespace,
                name=self._name,
                managers=sorted(managers),
                fix=ending(self._name),
            )
        self._found[namespace] = frozenset(managers)

"""Opening a client only where the settings name Kubernetes: what it is made of is an extra, and takes 17 MiB."""

from __future__ import annotations

from typing import TYPE_CHECKING

from citadel.errors import InvalidArgument, Reason
from citadel.extras import installing
from citadel.kubernetes.settings import ApiServerSettings

if TYPE_CHECKING:
    from citadel.kubernetes.client import KubernetesClient


async def open_client(settings: ApiServerSettings, whose: str) -> KubernetesClient:
    """A client; whoever gets it closes it. Nothing is sent yet.

    Raises `InvalidArgument` (`config_invalid`), saying `whose` it would be, where the package is not installed, or a
    kubeconfig cannot be used.
    """
    try:
        from citadel.kubernetes.client import kubernetes_client  # noqa: PLC0415 - see above
    except ModuleNotFoundError as error:
        if error.name is None or error.name.startswith("citadel."):
            raise
        raise InvalidArgument(
            Reason.CONFIG_INVALID,
            f"the section kubernetes needs {error.name.partition('.')[0]}, which is not installed",
            fix=installing("kubernetes"),
        ) from error
    try:
        return await kubernetes_client(settings)
    except InvalidArgument as error:
        raise InvalidArgument(error.reason, f"{whose}: {error.message}", fix=error.fix) from error

"""Settings about clusters of Kubernetes that the server and the agent share."""

from __future__ import annotations

import re
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Annotated, Final, Self

from pydantic import AfterValidator, model_validator

from citadel.config.types import Settings

# A DNS label as Kubernetes knows it (RFC 1123), so that a cluster's name fits into SPIFFE IDs and selectors.
_LABEL: Final = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")
_PATTERN: Final = re.compile(r"[a-z0-9*-]{1,63}")


def _cluster_name(name: str) -> str:
    if _LABEL.fullmatch(name) is None:
        raise ValueError(f"{name[:100]!r} is not the name of a cluster: up to 63 of a-z, 0-9 and '-'")
    return name


def _namespace_pattern(pattern: str) -> str:
    if _PATTERN.fullmatch(pattern) is None:
        raise ValueError(f"{pattern[:100]!r} is not a namespace; '*' stands for any characters")
    return pattern


ClusterName = Annotated[str, AfterValidator(_cluster_name)]
NamespacePattern = Annotated[str, AfterValidator(_namespace_pattern)]


class ApiServerSettings(Settings):
    """Where the API server is, and as whom it is asked: by a kubeconfig, or else as the service account of this pod."""

    kubeconfig: Path | None = None
    context: str | None = None

    @model_validator(mode="after")
    def _context_is_of_a_kubeconfig(self) -> Self:
        if self.context is not None and self.kubeconfig is None:
            raise ValueError("context is one of a kubeconfig, which is not named: add kubeconfig, or leave out context")
        return self


class NamespaceSettings(Settings):
    """Which namespaces are meant: those that a pattern of `include` fits and none of `exclude`."""

    include: tuple[NamespacePattern, ...] = ("*",)
    exclude: tuple[NamespacePattern, ...] = ()

    @property
    def listed(self) -> tuple[str, ...] | None:
        """The namespaces, where each is named; None where a pattern stands for any number of them."""
        if any("*" in pattern for pattern in self.include):
            return None
        return tuple(dict.fromkeys(each for each in self.include if self.admits(each)))

    def admits(self, namespace: str) -> bool:
        """Whether this namespace is meant."""
        return _fits(namespace, self.include) and not _fits(namespace, self.exclude)


def _fits(namespace: str, patterns: tuple[str, ...]) -> bool:
    return any(fnmatchcase(namespace, pattern) for pattern in patterns)

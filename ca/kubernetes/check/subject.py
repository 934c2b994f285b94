"""What is looked at in a cluster, and on a node."""

from __future__ import annotations

from enum import StrEnum


class Subject(StrEnum):
    """The order is that in which people should read."""

    REACHED = "reached"
    VERSION = "version"
    CALLER = "asked as"
    CLOCK = "clock"
    CLUSTER = "cluster"
    KINDS = "kinds"
    PERMISSION = "permission"
    NAMESPACE = "namespace"
    ACCOUNT = "service account"
    AUDIENCE = "audience"
    SECRETS = "secrets"
    PODS = "pods"
    AGENTS = "agents"
    CONFIG_MAP = "ConfigMap"
    WRITERS = "who else writes"
    SERVER = "server"
    ENTRIES = "entries"

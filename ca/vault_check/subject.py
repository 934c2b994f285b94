"""What is looked at in Vault."""

from __future__ import annotations

from enum import StrEnum


class Subject(StrEnum):
    """What is looked at; the order is that in which people should read."""

    REACHED = "reached"
    SEALED = "sealed"
    VERSION = "version"
    CLOCK = "clock"
    LOGIN = "log-in"
    LEASE = "lease"
    POLICY = "policy"
    POWER = "more than needed"
    MOUNT = "mount"
    ISSUER = "issuer"
    USAGE = "issuer's usage"
    ROOTS = "roots"
    LIFETIME = "lifetime"
    LIMIT = "mount's limit"
    PREFIX = "names of keys"
    SEAL_KEY = "seal key"

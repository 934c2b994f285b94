"""What the system allows this process."""

from __future__ import annotations

import resource
import sys


def raise_open_files() -> None:
    """Take all the open files that the hard limit allows: a connected proxy costs four, the usual limit is 1,024."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def open_files() -> int:
    """How many files this process may have open."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return sys.maxsize if soft == resource.RLIM_INFINITY else soft

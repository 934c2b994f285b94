"""What the system allows this process."""

from __future__ import annotations

import resource


def raise_open_files() -> None:
    """Take all the open files that the hard limit allows: a connected proxy costs four, the usual limit is 1,024."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))

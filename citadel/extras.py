"""What to do where a part of Citadel that is an extra is not installed."""

from __future__ import annotations


def installing(extra: str) -> str:
    """How to have it. By its folder: whoever owns the name `citadel` at a package index, it is not this project."""
    return f"in a clone of Citadel: pip install '.[{extra}]'"

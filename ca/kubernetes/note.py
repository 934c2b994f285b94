"""What a part says to people about a cluster."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Note:
    """A sentence for `status`; where it `is_trouble`, also for `/ready`."""

    text: str
    is_trouble: bool = False

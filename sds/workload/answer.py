"""A message of the Workload API with what is reported of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from citadel._wire import types_pb2

_Message = TypeVar("_Message")


@dataclass(frozen=True, slots=True)
class Answer(Generic[_Message]):
    """One message, with what is reported of it: names and facts, nothing of a key."""

    message: _Message = field(repr=False)
    about: Sequence[types_pb2.ResourceReport]

    def says_the_same_as(self, other: Answer[_Message] | None) -> bool:
        """Whether sending this after `other` would tell the caller nothing."""
        return other is self or (other is not None and other.message == self.message)

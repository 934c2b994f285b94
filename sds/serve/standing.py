"""What a stream has asked for, was sent and has answered: the words that both kinds of stream share."""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import Enum, auto
from typing import Final

from citadel.printable import printable
from sds.serve.resource import Facts, Resource

MAX_REFUSAL_CHARACTERS: Final = 500
MAX_NODE_CHARACTERS: Final = 256


class Heard(Enum):
    """What a request turned out to be."""

    SUBSCRIBED = auto()
    ACKNOWLEDGED = auto()
    REFUSED = auto()
    STALE_NONCE = auto()
    WRONG_TYPE = auto()


class State(Enum):
    """How far one secret has come on this stream."""

    WAITING = auto()
    SENT = auto()
    ACKNOWLEDGED = auto()
    REFUSED = auto()


@dataclass(frozen=True, slots=True)
class Held:
    """What a proxy acknowledged last and so holds until it acknowledges something else.

    Without `facts` it is a version that the proxy brought from an earlier stream, of content that is not at hand now.
    """

    version: str
    facts: Facts | None = None


@dataclass(frozen=True, slots=True)
class Standing:
    """One name that the stream asked for: what was sent last, what the proxy said to it, and what it holds.

    WAITING has no resource. `refusal` holds the proxy's own words.
    """

    name: str
    state: State
    resource: Resource | None = None
    refusal: str = ""
    held: Held | None = None

    def is_about(self, resource: Resource) -> bool:
        """Whether this very content was sent already, so that sending it again would tell the proxy nothing."""
        return self.resource is not None and self.resource.version == resource.version

    def acknowledged(self) -> Standing:
        """After the proxy took what was sent."""
        return replace(self, state=State.ACKNOWLEDGED, refusal="", held=held_of(self.resource))

    def refused(self, refusal: str) -> Standing:
        """After the proxy refused what was sent; it keeps what it held."""
        return replace(self, state=State.REFUSED, refusal=printable(refusal, MAX_REFUSAL_CHARACTERS))

    def holding(self, resource: Resource) -> Standing:
        """After the proxy took something that has been overtaken: it holds that until it answers what came since."""
        return replace(self, held=held_of(resource))

    def restated(self, resource: Resource) -> Standing:
        """The same content with the facts of now: a bundle's sequence also rises with its JWT keys."""
        is_held = self.held is not None and self.held.version == resource.version
        return replace(self, resource=resource, held=held_of(resource) if is_held else self.held)


def held_of(resource: Resource | None) -> Held | None:
    """What a proxy that took `resource` holds."""
    return None if resource is None else Held(resource.version, resource.facts)

"""One StreamSecrets stream, state of the world, as a machine without IO.

Source: the xDS protocol, "How the client specifies what resources to return", "ACK/NACK and resource type instance
version"; what Envoy does with it was measured. The machine is fed requests as they come and asked, after every
change, what there is to send; it never asks for anything itself.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from enum import Enum, auto
from typing import Final

from envoy.service.discovery.v3 import discovery_pb2

from sds.serve.resource import SECRET_TYPE_URL, Resource

MAX_NAMES: Final = 128  # a proxy asks for one name on each stream
MAX_NAME_BYTES: Final = 2048  # the longest SPIFFE ID (ID-19)
MAX_REFUSAL_CHARACTERS: Final = 500
MAX_NODE_CHARACTERS: Final = 256
_VERSION_DIGITS: Final = 16


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
class Standing:
    """One name that the stream asked for: what was sent last, and what the proxy said to it.

    WAITING has no resource. `refusal` holds the proxy's own words.
    """

    name: str
    state: State
    resource: Resource | None = None
    refusal: str = ""

    def is_about(self, resource: Resource) -> bool:
        """Whether this very content was sent already, so that sending it again would tell the proxy nothing."""
        return self.resource is not None and self.resource.version == resource.version


class SecretStream:
    """What was asked for, sent and answered on one stream.

    Every response holds all that the stream asked for and may have, so that its version stands for the whole; a name
    that nothing is known for is left out until there is something (invariant 8), and so is content that the proxy
    refused, until it changes. A refusal is of a whole response: once the proxy accepts something new under a name that
    it refused, that one may have been at fault, and the others are offered again.

    An empty list of names asks for everything that the caller may have, under every name: each SPIFFE ID, each bundle,
    and the short names.

    Names beyond `MAX_NAMES` and names longer than `MAX_NAME_BYTES` are ignored and counted in `ignored_names`.
    """

    def __init__(self) -> None:
        self.node_id = ""
        self.ignored_names = 0
        self._has_asked = False
        self._wants_all = False
        self._names: tuple[str, ...] = ()
        self._standings: dict[str, Standing] = {}
        self._refused_once: set[str] = set()  # and not accepted since
        self._claimed_version = ""
        self._responses = 0
        self._last = discovery_pb2.DiscoveryResponse()
        self._last_names: frozenset[str] = frozenset()

    def on_request(self, request: discovery_pb2.DiscoveryRequest) -> Heard:
        """Take in a request: the first one, a change of names, an ACK or a NACK."""
        if request.type_url not in ("", SECRET_TYPE_URL):
            return Heard.WRONG_TYPE
        if self._responses and request.response_nonce not in ("", self._last.nonce):
            return Heard.STALE_NONCE  # overtaken: the proxy has yet to answer what was sent since
        if not self._has_asked:
            # A reconnect: the proxy says what it still has. Its nonce is of another stream and means nothing here.
            self._claimed_version = request.version_info
        if request.node.id:
            self.node_id = _printable(request.node.id, MAX_NODE_CHARACTERS)
        heard = self._hear_answer(request)
        self._subscribe(request.resource_names)
        return heard

    def offer(self, available: Mapping[str, Resource]) -> discovery_pb2.DiscoveryResponse | None:
        """What to send now that the caller may have `available`; None when that is nothing new."""
        names = sorted(available) if self._wants_all else self._names
        resources = [available[name] for name in names if name in available]
        resources = [resource for resource in resources if not self._has_refused(resource)]
        version = _version_of(resources)
        if resources and version == self._claimed_version:
            self._standings |= {each.name: Standing(each.name, State.ACKNOWLEDGED, each) for each in resources}
            self._claimed_version = ""
        if all(self._has_been_sent(resource) for resource in resources):
            # The same content can have new facts: a bundle's sequence also rises with its JWT keys.
            for each in resources:
                self._standings[each.name] = replace(self._standings[each.name], resource=each)
            return None
        return self._respond(resources, version)

    def standings(self) -> list[Standing]:
        """Every name that was asked for, also those that wait, in the order of the names.

        What was sent stands here until the proxy unsubscribes, also when it is no longer available: the proxy keeps it.
        """
        waiting = {name: Standing(name, State.WAITING) for name in self._names}
        return [standing for _, standing in sorted((waiting | self._standings).items())]

    def _hear_answer(self, request: discovery_pb2.DiscoveryRequest) -> Heard:
        if not self._responses or request.response_nonce != self._last.nonce:
            return Heard.SUBSCRIBED
        if request.HasField("error_detail"):
            refusal = _printable(request.error_detail.message, MAX_REFUSAL_CHARACTERS)
            self._answer(State.REFUSED, refusal)
            return Heard.REFUSED
        # A change of names after a NACK bears the same nonce and the version that was accepted before: not an ACK.
        if request.version_info != self._last.version_info:
            return Heard.SUBSCRIBED
        self._answer(State.ACKNOWLEDGED)
        return Heard.ACKNOWLEDGED

    def _answer(self, state: State, refusal: str = "") -> None:
        sent = [standing for name in self._last_names if (standing := self._standings.get(name)) is not None]
        answered = {each.name: each for each in sent if each.state is State.SENT}  # a response is answered once
        self._standings |= {each.name: replace(each, state=state, refusal=refusal) for each in answered.values()}
        if state is State.REFUSED:
            self._refused_once |= answered.keys()
        elif self._refused_once & answered.keys():
            self._refused_once -= answered.keys()
            self._standings = {each.name: each for each in self._standings.values() if each.state is not State.REFUSED}

    def _subscribe(self, names: Iterable[str]) -> None:
        asked = tuple(dict.fromkeys(names))
        sound = tuple(name for name in asked if len(name.encode()) <= MAX_NAME_BYTES)[:MAX_NAMES]
        self.ignored_names += len(asked) - len(sound)
        self._has_asked, self._wants_all, self._names = True, not asked, sound
        if not self._wants_all:  # what is asked for again later must be sent again
            self._standings = {name: self._standings[name] for name in sound if name in self._standings}

    def _respond(self, resources: list[Resource], version: str) -> discovery_pb2.DiscoveryResponse:
        for each in resources:
            known = self._standings.get(each.name)
            is_in_hand = known is not None and known.state is State.ACKNOWLEDGED and known.is_about(each)
            self._standings[each.name] = Standing(each.name, State.ACKNOWLEDGED if is_in_hand else State.SENT, each)
        self._responses += 1
        self._claimed_version = ""
        self._last_names = frozenset(each.name for each in resources)
        self._last = discovery_pb2.DiscoveryResponse(
            version_info=version, type_url=SECRET_TYPE_URL, nonce=str(self._responses)
        )
        response = discovery_pb2.DiscoveryResponse(resources=[each.body for each in resources])
        response.MergeFrom(self._last)
        return response

    def _has_been_sent(self, resource: Resource) -> bool:
        standing = self._standings.get(resource.name)
        return standing is not None and standing.is_about(resource)

    def _has_refused(self, resource: Resource) -> bool:
        standing = self._standings.get(resource.name)
        return standing is not None and standing.state is State.REFUSED and standing.is_about(resource)


def _version_of(resources: Iterable[Resource]) -> str:
    digest = hashlib.sha256()
    for each in sorted(resources, key=lambda resource: resource.name):
        digest.update(f"{each.name}\0{each.version}\0".encode())  # a name in a response is one of ours: it has no NUL
    return digest.hexdigest()[:_VERSION_DIGITS]


def _printable(text: str, limit: int) -> str:
    return "".join(letter if letter.isprintable() else " " for letter in text[:limit])

"""One StreamSecrets stream, state of the world, as a machine without IO.

Source: the xDS protocol, "How the client specifies what resources to return", "ACK/NACK and resource type instance
version"; what Envoy does with it was measured. The machine is fed requests as they come and asked, after every
change, what there is to send; it never asks for anything itself.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import Final

from envoy.service.discovery.v3 import discovery_pb2

from citadel.printable import printable
from sds.serve.available import Available
from sds.serve.resource import SECRET_TYPE_URL, Resource
from sds.serve.shared import SharedResponses
from sds.serve.standing import MAX_NODE_CHARACTERS, Heard, Held, Standing, State, held_of
from sds.serve.subscription import DEFAULT_MAX_NAMES, Subscription
from sds.settings import EVERYTHING

_VERSION_DIGITS: Final = 16
_MAX_OVERTAKEN: Final = 16  # responses whose late answers are still told apart


class SecretStream:
    """What was asked for, sent and answered on one stream.

    Every response holds all that the stream asked for and may have, so that its version stands for the whole; a name
    that nothing is known for is left out until there is something (invariant 8), and so is content that the proxy
    refused, until it changes. A refusal is of a whole response: once the proxy accepts something new under a name that
    it refused, that one may have been at fault, and the others are offered again.

    An empty list of names, and the name `*`, ask for everything that the caller may have, under every name: each SPIFFE
    ID, each bundle, and the short names.

    `is_owed` says whether there may be something to send although what is available has not changed.
    """

    protocol: Final = "sds"

    def __init__(self, *, max_names: int = DEFAULT_MAX_NAMES, shared: SharedResponses | None = None) -> None:
        self.node_id = ""
        self._shared = shared or SharedResponses()
        self.is_owed = False
        self._max_names = max_names
        self._subscription: Subscription | None = None  # until something was asked for
        self._ignored_before = 0
        self._standings: dict[str, Standing] = {}
        self._refused_once: set[str] = set()  # and not accepted since
        self._claimed_version = ""
        self._brought: dict[str, Held] = {}
        self._responses = 0
        self._last_nonce = ""
        self._last_version = ""
        self._unanswered: dict[str, tuple[str, tuple[Resource, ...]]] = {}  # version and contents, by nonce

    @property
    def names(self) -> Iterable[str]:
        """What is asked for by name."""
        return self._subscription.names if self._subscription else ()

    @property
    def ignored_names(self) -> int:
        """How many names were beyond the limits."""
        return self._ignored_before + (self._subscription.ignored if self._subscription else 0)

    def on_request(self, request: discovery_pb2.DiscoveryRequest) -> Heard:
        """Take in a request: the first one, a change of names, an ACK or a NACK."""
        if request.type_url not in ("", SECRET_TYPE_URL):
            return Heard.WRONG_TYPE
        if self._responses and request.response_nonce not in ("", self._last_nonce):
            self._hear_late_answer(request)
            return Heard.STALE_NONCE  # overtaken: the proxy has yet to answer what was sent since
        if request.node.id:
            self.node_id = printable(request.node.id, MAX_NODE_CHARACTERS)
        is_first = self._subscription is None
        heard = self._hear_answer(request)
        self._subscribe(request.resource_names)
        if is_first and request.version_info:
            # A reconnect: the proxy says what it still has. Its nonce is of another stream and means nothing here.
            self._take_claim(request)
        return heard

    def offer(self, available: Available) -> discovery_pb2.DiscoveryResponse | None:
        """What to send now that the caller may have `available`; None when that is nothing new."""
        self.is_owed = False
        if self._subscription is None:
            return None
        there = available.withdrawing(sent=self._standings, brought=self._brought)
        resources = [there[name] for name in self._subscription.wanted(there) if name in there]
        resources = [resource for resource in resources if not self._has_refused(resource)]
        if resources and self._claimed_version and _version_of(resources) == self._claimed_version:
            for each in resources:
                self._standings[each.name] = Standing(each.name, State.ACKNOWLEDGED, each, held=held_of(each))
            self._claimed_version = ""
        if all(self._has_been_sent(resource) for resource in resources):
            for each in resources:
                if (known := self._standings[each.name]).resource is not each:
                    self._standings[each.name] = known.restated(each)
            return None
        return self._respond(resources)

    def standings(self) -> list[Standing]:
        """Every name that was asked for, also those that wait, in the order of the names.

        What was sent stands here until the proxy unsubscribes, also when it is no longer available: the proxy keeps it.
        """
        names = self._subscription.names if self._subscription else ()
        unsent = (name for name in names if name not in self._standings)
        waiting = [Standing(name, State.WAITING, held=self._brought.get(name)) for name in unsent]
        return sorted((*waiting, *self._standings.values()), key=lambda standing: standing.name)

    def _take_claim(self, request: discovery_pb2.DiscoveryRequest) -> None:
        assert self._subscription is not None  # noqa: S101 - for the type checker: a request was taken
        self._claimed_version = request.version_info
        held = Held(printable(request.version_info, _VERSION_DIGITS))
        self._brought = dict.fromkeys(self._subscription.names, held)
        if self._subscription.wants_all:
            self._brought[EVERYTHING] = held

    def _hear_answer(self, request: discovery_pb2.DiscoveryRequest) -> Heard:
        if not self._responses or request.response_nonce != self._last_nonce:
            return Heard.SUBSCRIBED
        if request.HasField("error_detail"):
            self._answer(State.REFUSED, request.error_detail.message)
            return Heard.REFUSED
        # A change of names after a NACK bears the same nonce and the version that was accepted before: not an ACK.
        if request.version_info != self._last_version:
            return Heard.SUBSCRIBED
        self._answer(State.ACKNOWLEDGED)
        return Heard.ACKNOWLEDGED

    def _hear_late_answer(self, request: discovery_pb2.DiscoveryRequest) -> None:
        """An ACK of something that was overtaken still says what the proxy holds meanwhile."""
        version, resources = self._unanswered.pop(request.response_nonce, ("", ()))
        if request.version_info != version or request.HasField("error_detail"):
            return
        for each in resources:
            known = self._standings.get(each.name)
            if known is not None and known.state is State.SENT:
                self._standings[each.name] = known.holding(each)

    def _answer(self, state: State, refusal: str = "") -> None:
        _, resources = self._unanswered.get(self._last_nonce, ("", ()))
        self._unanswered.clear()  # a response is answered once, and the proxy answers in order
        sent = [standing for each in resources if (standing := self._standings.get(each.name)) is not None]
        answered = [standing for standing in sent if standing.state is State.SENT]
        names = {each.name for each in answered}
        for each in answered:
            is_refused = state is State.REFUSED
            self._standings[each.name] = each.refused(refusal) if is_refused else each.acknowledged()
        if state is State.REFUSED:
            self._refused_once |= names
        elif self._refused_once & names:
            self._refused_once -= names
            self._standings = {each.name: each for each in self._standings.values() if each.state is not State.REFUSED}
            self.is_owed = True

    def _subscribe(self, names: Iterable[str]) -> None:
        asked = Subscription(max_names=self._max_names)
        asked.add(names or (EVERYTHING,))
        before, self._subscription = self._subscription, asked
        if before is not None:
            self._ignored_before += before.ignored
            if before.wants_all == asked.wants_all and list(before.names) == list(asked.names):
                return
        self.is_owed = True
        if not asked.wants_all:  # what is asked for again later must be sent again
            kept = frozenset(asked.names)
            self._standings = {name: each for name, each in self._standings.items() if name in kept}
            self._brought = {name: each for name, each in self._brought.items() if name in kept}

    def _respond(self, resources: list[Resource]) -> discovery_pb2.DiscoveryResponse:
        for each in resources:
            known = self._standings.get(each.name)
            if known is None or known.state is not State.ACKNOWLEDGED or not known.is_about(each):
                held = known.held if known else self._brought.get(each.name, self._brought.get(EVERYTHING))
                self._standings[each.name] = Standing(each.name, State.SENT, each, held=held)
            elif known.resource is not each:
                self._standings[each.name] = known.restated(each)
        self._responses += 1
        self._claimed_version = ""
        version, nonce = _version_of(resources), str(self._responses)
        self._unanswered[nonce] = (version, tuple(resources))
        if len(self._unanswered) > _MAX_OVERTAKEN:
            del self._unanswered[next(iter(self._unanswered))]
        self._last_nonce, self._last_version = nonce, version

        def make() -> discovery_pb2.DiscoveryResponse:
            return discovery_pb2.DiscoveryResponse(
                version_info=version,
                type_url=SECRET_TYPE_URL,
                nonce=nonce,
                resources=[each.body for each in resources],
            )

        return self._shared.get((version, nonce), resources, make)

    def _has_been_sent(self, resource: Resource) -> bool:
        standing = self._standings.get(resource.name)
        return standing is not None and standing.is_about(resource)

    def _has_refused(self, resource: Resource) -> bool:
        standing = self._standings.get(resource.name)
        return standing is not None and standing.state is State.REFUSED and standing.is_about(resource)


def fetched(
    request: discovery_pb2.DiscoveryRequest, available: Available, *, max_names: int
) -> discovery_pb2.DiscoveryResponse:
    """The answer to a single request: what is there now of the names, or of everything; the rest is left out."""
    asked = Subscription(max_names=max_names)
    asked.add(request.resource_names or (EVERYTHING,))
    there = available.resources
    resources = [there[name] for name in asked.wanted(there) if name in there]
    return discovery_pb2.DiscoveryResponse(
        version_info=_version_of(resources), type_url=SECRET_TYPE_URL, resources=[each.body for each in resources]
    )


def _version_of(resources: Iterable[Resource]) -> str:
    digest = hashlib.sha256()
    for each in sorted(resources, key=lambda resource: resource.name):
        digest.update(f"{each.name}\0{each.version}\0".encode())  # a name in a response is one of ours: it has no NUL
    return digest.hexdigest()[:_VERSION_DIGITS]

"""One DeltaSecrets stream, incremental, as a machine without IO.

Source: the xDS protocol, "Incremental xDS"; what Envoy does with it was measured. As `sds.serve.stream`, but every
resource has a version of its own, each response is answered by itself, and a proxy is told which names it cannot have.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Final

from envoy.service.discovery.v3 import discovery_pb2

from citadel.printable import printable
from sds.serve.available import Available
from sds.serve.resource import SECRET_TYPE_URL, Resource
from sds.serve.shared import SharedResponses
from sds.serve.standing import MAX_NODE_CHARACTERS, Heard, Held, Standing, State, held_of
from sds.serve.subscription import DEFAULT_MAX_NAMES, Subscription
from sds.settings import EVERYTHING

_MAX_OVERTAKEN: Final = 16  # responses whose late answers are still told apart
_MAX_VERSION_CHARACTERS: Final = 64  # a longer one is none of ours


class DeltaSecretStream:
    """What was asked for, sent and answered on one stream.

    A name that the caller cannot have is told as removed, once; one that it may have and that is not at hand is told
    nothing, so that a proxy does not give up what it will get in a moment (invariant 5). Envoy keeps an ordinary secret
    that is removed, and gives up waiting for one that it wants on demand.

    Several resources that were refused together are offered again one by one, so that only the bad one stays refused
    (invariant 8).

    A first request without any names, and the name `*`, ask for everything that the caller may have. `is_owed` as in
    `SecretStream`.
    """

    protocol: Final = "sds-delta"

    def __init__(self, *, max_names: int = DEFAULT_MAX_NAMES, shared: SharedResponses | None = None) -> None:
        self.node_id = ""
        self._shared = shared or SharedResponses()
        self.is_owed = False
        self._has_asked = False
        self._max_names = max_names
        self._subscription = Subscription(max_names=max_names)
        self._standings: dict[str, Standing] = {}
        self._brought: dict[str, str] = {}  # versions that the proxy has from before, until something is sent
        self._again: set[str] = set()  # to be sent, whatever was sent before
        self._alone: dict[str, None] = {}  # to be sent again, each in a response of its own
        self._gone: set[str] = set()  # told as removed
        self._responses = 0
        self._unanswered: dict[str, tuple[Resource, ...]] = {}  # by nonce
        self._last_in: dict[str, str] = {}  # nonces by name

    @property
    def names(self) -> Iterable[str]:
        """What is asked for by name."""
        return self._subscription.names

    @property
    def ignored_names(self) -> int:
        """How many names were beyond the limits."""
        return self._subscription.ignored

    def on_request(self, request: discovery_pb2.DeltaDiscoveryRequest) -> Heard:
        """Take in a request: the first one, a change of names, an ACK or a NACK, or several of these at once."""
        if request.type_url not in ("", SECRET_TYPE_URL):
            return Heard.WRONG_TYPE
        if request.node.id:
            self.node_id = printable(request.node.id, MAX_NODE_CHARACTERS)
        # The names are changes to what was asked before: they count even in an answer that comes too late.
        heard = self._hear_answer(request)
        self._unsubscribe(request.resource_names_unsubscribe)
        if self._has_asked:
            self._subscribe(request.resource_names_subscribe)
        else:
            self._begin(request)
        return heard

    def offer(self, available: Available) -> discovery_pb2.DeltaDiscoveryResponse | None:
        """What to send now that the caller may have `available`; None when that is nothing new."""
        there = available.withdrawing(sent=self._standings, brought=self._brought)
        alone = next((name for name in self._alone if name in there), None)
        self.is_owed = alone is not None
        if alone is not None:
            return self._respond([there[alone]], ())
        names = self._subscription.wanted(there)
        fresh = [there[name] for name in names if name in there and not self._knows(there[name])]
        missing = (name for name in self._known_names() if name not in there and name not in self._gone)
        gone = [name for name in missing if available.rules_out(name)]
        return self._respond(fresh, gone) if fresh or gone else None

    def standings(self) -> list[Standing]:
        """Every name that was asked for, also those that wait, in the order of the names.

        What was sent stands here until the proxy unsubscribes, also when it was removed: an Envoy keeps it.
        """
        unsent = (name for name in self._known_names() if name not in self._standings)
        waiting = [Standing(name, State.WAITING, held=self._held_before(name)) for name in unsent]
        return sorted((*waiting, *self._standings.values()), key=lambda standing: standing.name)

    def _known_names(self) -> Iterable[str]:
        if not self._subscription.wants_all:
            return self._subscription.names
        return dict.fromkeys((*self._subscription.names, *self._standings, *self._brought))

    def _begin(self, request: discovery_pb2.DeltaDiscoveryRequest) -> None:
        self._has_asked = self.is_owed = True
        names = (*request.resource_names_subscribe, *request.resource_names_unsubscribe)
        self._subscription.add(request.resource_names_subscribe if names else (EVERYTHING,))
        versions: Mapping[str, str] = request.initial_resource_versions
        claims = Subscription(max_names=self._max_names).add(versions)
        known = self._subscription.names
        self._brought = {
            name: versions[name]
            for name in claims
            if (self._subscription.wants_all or name in known) and 0 < len(versions[name]) <= _MAX_VERSION_CHARACTERS
        }

    def _subscribe(self, names: Iterable[str]) -> None:
        for name in self._subscription.add(names):
            # Also where it was asked for already: the proxy may have forgotten what it had.
            self._again.add(name)
            self._gone.discard(name)
        self.is_owed = self.is_owed or bool(names)

    def _unsubscribe(self, names: Iterable[str]) -> None:
        dropped = self._subscription.remove(names)
        if EVERYTHING in names:
            kept = frozenset(self._subscription.names)
            dropped = [name for name in (*self._standings, *self._brought) if name not in kept]
        for name in dropped:
            self._standings.pop(name, None)
            self._brought.pop(name, None)
            self._last_in.pop(name, None)
            self._alone.pop(name, None)
            self._again.discard(name)
            self._gone.discard(name)
        self.is_owed = self.is_owed or (bool(dropped) and self._subscription.wants_all)

    def _hear_answer(self, request: discovery_pb2.DeltaDiscoveryRequest) -> Heard:
        if not request.response_nonce or not self._responses:  # or of the stream before
            return Heard.SUBSCRIBED
        resources = self._unanswered.pop(request.response_nonce, None)
        if resources is None:
            has_names = request.resource_names_subscribe or request.resource_names_unsubscribe
            return Heard.SUBSCRIBED if has_names else Heard.STALE_NONCE
        known = [(self._standings[each.name], each) for each in resources if each.name in self._standings]
        if not request.HasField("error_detail"):
            for standing, each in known:
                is_newest = standing.is_about(each)
                self._standings[each.name] = standing.acknowledged() if is_newest else standing.holding(each)
            return Heard.ACKNOWLEDGED
        for standing, each in known:
            if standing.is_about(each):
                self._standings[each.name] = standing.refused(request.error_detail.message)
                if len(resources) > 1:
                    self._alone[each.name] = None
                    self.is_owed = True
        return Heard.REFUSED

    def _knows(self, resource: Resource) -> bool:
        """Whether the proxy was sent this content, or brought it."""
        name = resource.name
        if name in self._again:
            return False
        if self._brought.get(name) == resource.version:
            del self._brought[name]
            self._standings[name] = Standing(name, State.ACKNOWLEDGED, resource, held=held_of(resource))
            return True
        known = self._standings.get(name)
        if known is None or not known.is_about(resource):
            return False
        if known.resource is not resource:
            self._standings[name] = known.restated(resource)
        return True

    def _held_before(self, name: str) -> Held | None:
        version = self._brought.get(name)
        return Held(printable(version, _MAX_VERSION_CHARACTERS)) if version else None

    def _respond(self, resources: Sequence[Resource], gone: Sequence[str]) -> discovery_pb2.DeltaDiscoveryResponse:
        for each in resources:
            known = self._standings.get(each.name)
            held = known.held if known else self._held_before(each.name)
            self._standings[each.name] = Standing(each.name, State.SENT, each, held=held)
            self._brought.pop(each.name, None)
            self._alone.pop(each.name, None)
            self._again.discard(each.name)
            self._gone.discard(each.name)
        self._gone.update(gone)
        self._again.update(gone)  # should it come back, then it is news, even the same
        self._responses += 1
        nonce = str(self._responses)
        self._await_answer(nonce, tuple(resources))

        def make() -> discovery_pb2.DeltaDiscoveryResponse:
            return discovery_pb2.DeltaDiscoveryResponse(
                type_url=SECRET_TYPE_URL,
                nonce=nonce,
                resources=[
                    discovery_pb2.Resource(name=each.name, version=each.version, resource=each.body)
                    for each in resources
                ],
                removed_resources=gone,
            )

        contents = tuple((each.name, each.version) for each in resources)
        return self._shared.get((contents, tuple(gone), nonce), resources, make)

    def _await_answer(self, nonce: str, resources: tuple[Resource, ...]) -> None:
        self._unanswered[nonce] = resources
        self._last_in.update((each.name, nonce) for each in resources)
        # Each name has one response that was its last, so that however often it is asked for, few are remembered.
        overtaken = [
            older
            for older, sent in self._unanswered.items()
            if not any(self._last_in.get(each.name) == older for each in sent)
        ]
        for older in overtaken[:-_MAX_OVERTAKEN]:
            del self._unanswered[older]
        while len(self._unanswered) > self._max_names + _MAX_OVERTAKEN:  # with everything, names are not bounded
            del self._unanswered[next(iter(self._unanswered))]

from __future__ import annotations

from typing import Any

import pytest
from envoy.service.discovery.v3 import discovery_pb2

from sds.serve.available import Available
from sds.serve.delta import DeltaSecretStream
from sds.serve.resource import SECRET_TYPE_URL, BundleFacts, Resource
from sds.serve.standing import MAX_REFUSAL_CHARACTERS, Heard, Held, State
from sds.serve.subscription import DEFAULT_MAX_NAMES as MAX_NAMES
from sds.settings import MAX_NAME_BYTES
from tests.unit.sds.resources import CODE_INTERNAL, offered, resource


class Proxy:
    """The other end: keeps what it was sent, takes away what it is told to, and answers each response."""

    def __init__(self, *names: str, has: dict[str, str] | None = None) -> None:
        self.stream = DeltaSecretStream()
        self.secrets: dict[str, str] = {}
        self.nonce = ""
        self.begun = self.ask(resource_names_subscribe=names, initial_resource_versions=has or {})

    def ask(self, **fields: Any) -> Heard:
        return self.stream.on_request(discovery_pb2.DeltaDiscoveryRequest(**({"type_url": SECRET_TYPE_URL} | fields)))

    def receive(self, available: dict[str, Resource], **facts: Any) -> bool:
        """Take the next response, without an answer yet; False when there is none."""
        response = self.stream.offer(Available(available, **facts))
        if response is None:
            return False
        assert response.type_url == SECRET_TYPE_URL
        assert response.nonce
        assert response.nonce != self.nonce
        assert response.resources or response.removed_resources
        self.nonce = response.nonce
        for each in response.resources:
            assert each.resource.value.decode() == f"{each.name}={each.version}"
        self.sent = {each.name: each.version for each in response.resources}
        self.removed = list(response.removed_resources)
        return True

    def ack(self, **changes: Any) -> Heard:
        self.secrets = {name: has for name, has in self.secrets.items() if name not in self.removed} | self.sent
        return self.ask(**({"response_nonce": self.nonce} | changes))

    def nack(self, message: str = "no good", **changes: Any) -> Heard:
        error = {"code": CODE_INTERNAL, "message": message}
        return self.ask(**({"response_nonce": self.nonce, "error_detail": error} | changes))

    def take(self, available: dict[str, Resource], **facts: Any) -> bool:
        """Receive and acknowledge."""
        received = self.receive(available, **facts)
        if received:
            assert self.ack() is Heard.ACKNOWLEDGED
        return received

    def states(self) -> dict[str, State]:
        return {standing.name: standing.state for standing in self.stream.standings()}

    def held(self) -> dict[str, str]:
        return {each.name: each.held.version for each in self.stream.standings() if each.held is not None}


def test_nothing_is_sent_before_anything_was_asked() -> None:
    assert DeltaSecretStream().offer(Available(offered(default="1"))) is None


def test_only_what_changed_is_sent() -> None:
    proxy = Proxy("default", "ROOTCA")
    assert proxy.take(offered(default="1", ROOTCA="1", other="1"))
    assert proxy.secrets == {"default": "1", "ROOTCA": "1"}
    assert not proxy.receive(offered(default="1", ROOTCA="1", other="2"))
    assert proxy.take(offered(default="2", ROOTCA="1"))
    assert proxy.sent == {"default": "2"}


def test_identical_content_is_not_sent_again_while_its_answer_is_awaited() -> None:
    proxy = Proxy("default")
    assert proxy.receive(offered(default="1"))
    assert not proxy.receive(offered(default="1"))
    assert proxy.states() == {"default": State.SENT}


class TestNamesThatAreNotThere:
    @pytest.mark.invariant(8)
    @pytest.mark.parametrize("unknown", ["spiffe://a.test/unknown", "no such name", "spiffe://", "\N{SNOWMAN}"])
    def test_an_unknown_one_is_told_as_removed_once_and_takes_nothing_from_the_others(self, unknown: str) -> None:
        proxy = Proxy("default", unknown)
        assert proxy.take(offered(default="1"))
        assert (proxy.sent, proxy.removed) == ({"default": "1"}, [unknown])
        assert proxy.states()[unknown] is State.WAITING
        assert not proxy.receive(offered(default="1"))
        assert proxy.take(offered(default="1") | {unknown: resource(unknown)})
        assert proxy.secrets == {"default": "1", unknown: "1"}

    @pytest.mark.invariant(5)
    @pytest.mark.parametrize("facts", [{"awaited": frozenset({"default"})}, {"is_known": False}])
    def test_one_that_will_come_is_waited_for_in_silence(self, facts: dict[str, Any]) -> None:
        proxy = Proxy("default")
        assert not proxy.receive({}, **facts)
        assert proxy.states() == {"default": State.WAITING}
        assert proxy.take(offered(default="1"))
        assert proxy.secrets == {"default": "1"}

    @pytest.mark.invariant(5)
    def test_one_that_was_there_and_will_come_again_is_not_removed(self) -> None:
        proxy = Proxy("default")
        proxy.take(offered(default="1"))
        assert not proxy.receive({}, awaited=frozenset({"default"}))
        assert not proxy.receive(offered(default="1")), "the proxy still has it"

    def test_one_that_is_waited_for_in_vain_is_told_as_removed(self) -> None:
        proxy = Proxy("default")
        assert not proxy.receive({}, is_known=False)
        assert proxy.receive({})
        assert proxy.removed == ["default"]

    @pytest.mark.invariant(8)
    def test_one_that_was_taken_away_is_told_once_and_sent_should_it_come_back_the_same(self) -> None:
        proxy = Proxy("default", "ROOTCA")
        proxy.take(offered(default="1", ROOTCA="1"))
        assert proxy.take(offered(ROOTCA="1"))
        assert (proxy.sent, proxy.removed) == ({}, ["default"])
        assert not proxy.receive(offered(ROOTCA="1"))
        # An Envoy keeps it, and so it is still reported: something may depend on it (invariant 4).
        assert proxy.held() == {"default": "1", "ROOTCA": "1"}
        assert proxy.take(offered(default="1", ROOTCA="1"))
        assert proxy.sent == {"default": "1"}


class TestEverything:
    @pytest.mark.parametrize("names", [(), ("*",)])
    def test_is_asked_for_by_no_name_at_first_or_a_star(self, names: tuple[str, ...]) -> None:
        proxy = Proxy(*names)
        assert proxy.take(offered(default="1", ROOTCA="1"))
        assert proxy.secrets == {"default": "1", "ROOTCA": "1"}
        assert proxy.take(offered(default="1", ROOTCA="1", other="1"))
        assert proxy.sent == {"other": "1"}
        assert proxy.take(offered(default="1", ROOTCA="1"))
        assert proxy.removed == ["other"]

    def test_with_nothing_to_give_is_answered_with_nothing(self) -> None:
        proxy = Proxy()
        assert not proxy.receive({})

    def test_can_have_names_beside_it(self) -> None:
        proxy = Proxy("*", "missing")
        assert proxy.take(offered(default="1"))
        assert (proxy.sent, proxy.removed) == ({"default": "1"}, ["missing"])

    def test_can_be_given_up_with_names_kept(self) -> None:
        proxy = Proxy("*", "default")
        proxy.take(offered(default="1", ROOTCA="1"))
        proxy.ask(resource_names_unsubscribe=["*"])
        assert proxy.states() == {"default": State.ACKNOWLEDGED}
        assert not proxy.receive(offered(default="1", ROOTCA="2"))

    def test_is_not_what_a_later_empty_request_means(self) -> None:
        proxy = Proxy("default")
        proxy.take(offered(default="1", ROOTCA="1"))
        proxy.ask()
        assert not proxy.receive(offered(default="1", ROOTCA="1"))

    def test_is_not_what_unusable_names_mean(self) -> None:
        assert not Proxy("x" * (MAX_NAME_BYTES + 1)).receive(offered(default="1"))


class TestChangedNames:
    def test_a_name_added_is_sent_alone(self) -> None:
        proxy = Proxy("default")
        proxy.take(offered(default="1", ROOTCA="1"))
        assert proxy.ask(resource_names_subscribe=["ROOTCA"]) is Heard.SUBSCRIBED
        assert proxy.take(offered(default="1", ROOTCA="1"))
        assert proxy.sent == {"ROOTCA": "1"}

    def test_a_name_added_with_an_ack_is_both(self) -> None:
        proxy = Proxy("default")
        proxy.receive(offered(default="1", ROOTCA="1"))
        assert proxy.ack(resource_names_subscribe=["ROOTCA"]) is Heard.ACKNOWLEDGED
        assert proxy.stream.is_owed
        assert proxy.take(offered(default="1", ROOTCA="1"))
        assert proxy.secrets == {"default": "1", "ROOTCA": "1"}

    def test_a_name_asked_for_again_is_sent_again(self) -> None:
        """The xDS protocol: the client may have forgotten it although it never gave it up."""
        proxy = Proxy("default", "missing")
        proxy.take(offered(default="1"))
        proxy.ask(resource_names_subscribe=["default", "missing"])
        assert proxy.take(offered(default="1"))
        assert (proxy.sent, proxy.removed) == ({"default": "1"}, ["missing"])
        assert not proxy.receive(offered(default="1"))

    def test_a_name_given_up_is_forgotten_and_sent_when_it_is_asked_for_again(self) -> None:
        proxy = Proxy("default", "ROOTCA")
        proxy.take(offered(default="1", ROOTCA="1"))
        proxy.ask(resource_names_unsubscribe=["default", "never asked for"])
        assert proxy.states() == {"ROOTCA": State.ACKNOWLEDGED}
        assert not proxy.receive(offered(default="2", ROOTCA="1"))
        proxy.ask(resource_names_subscribe=["default"])
        assert proxy.take(offered(default="2", ROOTCA="1"))
        assert proxy.sent == {"default": "2"}

    def test_names_count_even_in_an_answer_that_comes_too_late(self) -> None:
        proxy = Proxy("default")
        proxy.take(offered(default="1"))
        assert proxy.ask(response_nonce="made up", resource_names_subscribe=["ROOTCA"]) is Heard.SUBSCRIBED
        assert proxy.take(offered(default="1", ROOTCA="1"))
        assert proxy.sent == {"ROOTCA": "1"}

    def test_names_beyond_the_limit_are_ignored_and_counted(self) -> None:
        proxy = Proxy(*(f"n{number}" for number in range(MAX_NAMES)))
        proxy.ask(resource_names_subscribe=["one more", "n0", "x" * (MAX_NAME_BYTES + 1)])
        assert proxy.stream.ignored_names == 2
        assert len(proxy.states()) == MAX_NAMES
        proxy.ask(resource_names_unsubscribe=["n0"], resource_names_subscribe=["one more"])
        assert "one more" in proxy.states()


class TestAnswers:
    def test_each_response_is_answered_by_itself(self) -> None:
        proxy = Proxy("default", "ROOTCA")
        proxy.receive(offered(default="1"), awaited=frozenset({"ROOTCA"}))
        first = proxy.nonce
        proxy.receive(offered(default="1", ROOTCA="1"))
        assert proxy.ask(response_nonce=first) is Heard.ACKNOWLEDGED
        assert proxy.states() == {"default": State.ACKNOWLEDGED, "ROOTCA": State.SENT}
        assert proxy.nack() is Heard.REFUSED
        assert proxy.states() == {"default": State.ACKNOWLEDGED, "ROOTCA": State.REFUSED}

    def test_a_refusal_is_kept_in_the_proxys_words_and_nothing_is_sent_until_the_content_changes(self) -> None:
        proxy = Proxy("default")
        proxy.take(offered(default="1"))
        proxy.receive(offered(default="2"))
        proxy.nack("Failed to load private key")
        (standing,) = proxy.stream.standings()
        assert (standing.state, standing.refusal) == (State.REFUSED, "Failed to load private key")
        for _ in range(3):
            assert not proxy.receive(offered(default="2"))
        assert proxy.take(offered(default="3"))
        assert proxy.states() == {"default": State.ACKNOWLEDGED}

    @pytest.mark.invariant(8)
    def test_what_was_refused_together_comes_again_one_by_one_so_that_only_the_bad_one_stays_refused(self) -> None:
        proxy = Proxy("default", "ROOTCA", "ALL")
        there = offered(default="bad", ROOTCA="1", ALL="1")
        proxy.receive(there)
        proxy.nack()
        assert set(proxy.states().values()) == {State.REFUSED}
        for _ in range(3):
            assert proxy.stream.is_owed
            assert proxy.receive(there)
            assert len(proxy.sent) == 1
            if "default" in proxy.sent:
                proxy.nack()
            else:
                proxy.ack()
        assert not proxy.receive(there)
        assert not proxy.stream.is_owed
        assert proxy.secrets == {"ROOTCA": "1", "ALL": "1"}
        assert proxy.states() == {"default": State.REFUSED, "ROOTCA": State.ACKNOWLEDGED, "ALL": State.ACKNOWLEDGED}

    @pytest.mark.invariant(3)
    def test_an_answer_to_what_was_overtaken_is_none_to_what_came_since(self) -> None:
        proxy = Proxy("default")
        proxy.receive(offered(default="1"))
        overtaken = proxy.nonce
        proxy.receive(offered(default="2"))
        proxy.ask(response_nonce=overtaken)
        assert (proxy.states(), proxy.held()) == ({"default": State.SENT}, {"default": "1"})
        assert proxy.ack() is Heard.ACKNOWLEDGED
        assert proxy.held() == {"default": "2"}

    @pytest.mark.invariant(3)
    def test_a_response_is_answered_once(self) -> None:
        proxy = Proxy("default")
        proxy.receive(offered(default="1"))
        proxy.nack()
        assert proxy.ack() is Heard.STALE_NONCE
        assert (proxy.states(), proxy.held()) == ({"default": State.REFUSED}, {})

    @pytest.mark.parametrize("text", ["line\nbreak", "\x1b[31mred", "x" * 10_000])
    def test_a_refusal_cannot_spoil_a_log(self, text: str) -> None:
        proxy = Proxy("default")
        proxy.receive(offered(default="1"))
        proxy.nack(text)
        (standing,) = proxy.stream.standings()
        assert standing.refusal.isprintable()
        assert 0 < len(standing.refusal) <= MAX_REFUSAL_CHARACTERS

    def test_what_nobody_answers_is_forgotten_once_it_is_overtaken(self) -> None:
        proxy = Proxy("default", "ROOTCA")
        proxy.receive(offered(ROOTCA="1"), awaited=frozenset({"default"}))
        first = proxy.nonce
        for version in range(1000):
            proxy.receive(offered(default=str(version), ROOTCA="1"))
        assert len(proxy.stream._unanswered) < 100
        assert proxy.ask(response_nonce=first) is Heard.ACKNOWLEDGED, "this one was not overtaken"
        assert proxy.states()["ROOTCA"] is State.ACKNOWLEDGED

    def test_asking_again_and_again_without_an_answer_fills_no_memory(self) -> None:
        proxy = Proxy("default")
        for _ in range(100):
            assert proxy.receive(offered(default="1"))
            proxy.ask(resource_names_subscribe=["default"])
        assert len(proxy.stream._unanswered) <= 1 + 16
        assert proxy.receive(offered(default="1"))
        assert proxy.ack() is Heard.ACKNOWLEDGED

    def test_what_is_awaited_is_bounded_also_where_everything_is_asked_for(self) -> None:
        proxy, there = Proxy("*"), {}
        for number in range(500):
            there |= offered(**{f"n{number}": "1"})
            assert proxy.receive(there)
        assert len(proxy.stream._unanswered) <= MAX_NAMES + 16
        assert proxy.ack() is Heard.ACKNOWLEDGED, "the newest are kept"

    def test_it_says_when_another_look_at_the_same_things_could_give_something(self) -> None:
        proxy = Proxy("default")
        assert proxy.stream.is_owed
        proxy.receive(offered(default="1"))
        proxy.ack()
        assert not proxy.stream.is_owed


class TestWrongType:
    def test_is_ignored_wholly(self) -> None:
        proxy = Proxy("default")
        proxy.receive(offered(default="1"))
        for _ in range(100):
            assert proxy.ask(type_url="x", resource_names_subscribe=["other"]) is Heard.WRONG_TYPE
        assert not proxy.receive(offered(default="1", other="1"))
        assert proxy.states() == {"default": State.SENT}

    def test_an_absent_type_can_only_mean_this_service(self) -> None:
        proxy = Proxy()
        assert proxy.ask(type_url="", resource_names_subscribe=["x"]) is Heard.SUBSCRIBED


class TestReconnect:
    def test_with_what_would_be_sent_counts_as_acknowledged_name_by_name(self) -> None:
        proxy = Proxy("default", "ROOTCA", has={"default": "1", "ROOTCA": "old"})
        assert proxy.take(offered(default="1", ROOTCA="2"))
        assert proxy.sent == {"ROOTCA": "2"}
        assert proxy.states() == {"default": State.ACKNOWLEDGED, "ROOTCA": State.ACKNOWLEDGED}

    def test_with_everything_current_is_sent_nothing(self) -> None:
        proxy = Proxy("default", has={"default": "1"})
        assert not proxy.receive(offered(default="1"))
        (standing,) = proxy.stream.standings()
        assert standing.held == Held("1", resource("default", "1").facts)

    def test_with_everything_asked_for(self) -> None:
        proxy = Proxy(has={"default": "1", "gone": "7"})
        assert proxy.take(offered(default="1", ROOTCA="1"))
        assert (proxy.sent, proxy.removed) == ({"ROOTCA": "1"}, ["gone"])

    @pytest.mark.invariant(4)
    def test_with_something_older_still_holds_that_until_it_acknowledges(self) -> None:
        proxy = Proxy("default", has={"default": "old"})
        assert proxy.held() == {"default": "old"}
        proxy.receive(offered(default="2"))
        assert (proxy.states(), proxy.held()) == ({"default": State.SENT}, {"default": "old"})
        proxy.nack()
        assert proxy.held() == {"default": "old"}
        proxy.take(offered(default="3"))
        assert proxy.held() == {"default": "3"}

    def test_before_the_agent_has_its_certificates_again_is_remembered(self) -> None:
        proxy = Proxy("default", has={"default": "1"})
        assert not proxy.receive({}, is_known=False)
        assert not proxy.receive(offered(default="1"))
        assert proxy.states() == {"default": State.ACKNOWLEDGED}

    def test_is_no_reason_to_withhold_the_old_content_once_something_newer_was_sent(self) -> None:
        proxy = Proxy("default", has={"default": "1"})
        assert proxy.take(offered(default="2"))
        assert proxy.take(offered(default="1"))

    def test_what_is_claimed_is_bounded(self) -> None:
        claims = {f"n{number}": "1" for number in range(10_000)} | {"long": "x" * 10_000}
        assert len(Proxy(has=claims).stream.standings()) <= MAX_NAMES
        assert Proxy("long", has={"long": "x" * 10_000}).held() == {}

    def test_a_nonce_of_the_stream_before_means_nothing(self) -> None:
        stream = DeltaSecretStream()
        request = discovery_pb2.DeltaDiscoveryRequest(resource_names_subscribe=["default"], response_nonce="1")
        assert stream.on_request(request) is Heard.SUBSCRIBED
        assert stream.offer(Available(offered(default="1"))) is not None


def test_new_facts_of_the_same_content_are_reported_without_a_push() -> None:
    """A bundle's sequence also rises when only a JWT key was added."""

    def bundle(sequence: int) -> dict[str, Resource]:
        return {"ROOTCA": Resource("ROOTCA", "1", BundleFacts("a.test", sequence), resource("ROOTCA").body)}

    proxy = Proxy("ROOTCA")
    proxy.take(bundle(1))
    assert not proxy.receive(bundle(2))
    (standing,) = proxy.stream.standings()
    assert standing.resource is not None
    assert standing.resource.facts == BundleFacts("a.test", 2)
    assert standing.held == Held("1", BundleFacts("a.test", 2))


def test_the_node_is_kept_from_the_request_that_names_it() -> None:
    proxy = Proxy("default")
    proxy.ask(node={"id": "sidecar\n1"})
    proxy.ask()
    assert proxy.stream.node_id == "sidecar 1"

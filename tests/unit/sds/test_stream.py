from __future__ import annotations

from typing import Any

import pytest
from envoy.service.discovery.v3 import discovery_pb2

from sds.serve.available import Available
from sds.serve.resource import SECRET_TYPE_URL, BundleFacts, Resource
from sds.serve.standing import MAX_REFUSAL_CHARACTERS, Heard, Held, State
from sds.serve.stream import SecretStream
from sds.serve.subscription import DEFAULT_MAX_NAMES as MAX_NAMES
from sds.serve.subscription import MAX_BYTES
from sds.settings import MAX_NAME_BYTES
from tests.unit.sds.resources import CODE_INTERNAL, offered, resource


class Proxy:
    """The other end: keeps what it was sent as Envoy does, and answers as Envoy does."""

    def __init__(self, *names: str, version: str = "", nonce: str = "") -> None:
        self.stream = SecretStream()
        self.names = names
        self.version = version
        self.nonce = nonce
        self.secrets: dict[str, str] = {}
        self.pushes = 0

    def ask(self, **changes: Any) -> Heard:
        fields = {
            "type_url": SECRET_TYPE_URL,
            "resource_names": self.names,
            "version_info": self.version,
            "response_nonce": self.nonce,
        }
        return self.stream.on_request(discovery_pb2.DiscoveryRequest(**(fields | changes)))

    def receive(self, available: dict[str, Resource]) -> bool:
        """Take what the stream sends, without an answer yet; False when it sends nothing."""
        response = self.stream.offer(Available(available))
        if response is None:
            return False
        assert response.type_url == SECRET_TYPE_URL
        assert response.nonce != self.nonce
        assert response.resources
        self.pushes += 1
        self.nonce, self.sent_version = response.nonce, response.version_info
        self.sent = dict(each.value.decode().split("=") for each in response.resources)
        return True

    def ack(self, **changes: Any) -> Heard:
        self.version = self.sent_version
        self.secrets |= self.sent
        return self.ask(**changes)

    def nack(self, message: str = "no good", **changes: Any) -> Heard:
        return self.ask(**({"error_detail": {"code": CODE_INTERNAL, "message": message}} | changes))

    def take(self, available: dict[str, Resource]) -> bool:
        """Receive and acknowledge."""
        received = self.receive(available)
        if received:
            assert self.ack() is Heard.ACKNOWLEDGED
        return received

    def states(self) -> dict[str, State]:
        return {standing.name: standing.state for standing in self.stream.standings()}

    def held(self) -> dict[str, str]:
        return {each.name: each.held.version for each in self.stream.standings() if each.held is not None}


def subscribed(*names: str, **options: str) -> Proxy:
    proxy = Proxy(*names, **options)
    assert proxy.ask() is Heard.SUBSCRIBED
    return proxy


def test_nothing_is_sent_before_anything_was_asked() -> None:
    assert not Proxy("default").receive(offered(default="1"))


def test_a_name_is_sent_once_and_again_when_its_content_changes() -> None:
    proxy = subscribed("default")
    assert proxy.take(offered(default="1"))
    assert not proxy.take(offered(default="1"))
    assert proxy.take(offered(default="2"))
    assert proxy.secrets == {"default": "2"}


def test_identical_content_is_not_sent_again_while_its_answer_is_awaited() -> None:
    proxy = subscribed("default")
    assert proxy.receive(offered(default="1"))
    assert not proxy.receive(offered(default="1"))
    assert proxy.states() == {"default": State.SENT}


def test_what_nobody_asked_for_is_not_sent() -> None:
    proxy = subscribed("default")
    proxy.take(offered(default="1", other="1"))
    assert proxy.secrets == {"default": "1"}
    assert not proxy.receive(offered(default="1", other="2"))


@pytest.mark.invariant(8)
@pytest.mark.parametrize(
    "unknown", ["spiffe://a.test/unknown", "no such name", "", "spiffe://", "\N{SNOWMAN}", "a" * 2048]
)
def test_an_unknown_name_takes_nothing_from_the_others_and_is_answered_when_it_appears(unknown: str) -> None:
    proxy = subscribed("default", unknown, "ROOTCA")
    assert proxy.take(offered(default="1", ROOTCA="1"))
    assert proxy.secrets == {"default": "1", "ROOTCA": "1"}
    assert proxy.states()[unknown] is State.WAITING
    assert proxy.take(offered(default="1", ROOTCA="1") | {unknown: resource(unknown)})
    assert proxy.secrets == {"default": "1", "ROOTCA": "1", unknown: "1"}


@pytest.mark.invariant(8)
def test_a_stream_of_unknown_names_stays_silent() -> None:
    proxy = subscribed("x", "y")
    assert not proxy.receive(offered(default="1"))
    assert proxy.states() == {"x": State.WAITING, "y": State.WAITING}


@pytest.mark.invariant(5, 8)
def test_a_name_that_vanishes_is_left_out_and_the_others_go_on() -> None:
    proxy = subscribed("default", "ROOTCA")
    proxy.take(offered(default="1", ROOTCA="1"))
    assert not proxy.receive(offered(ROOTCA="1")), "nothing that remains has changed"
    assert not proxy.receive({})
    assert proxy.take(offered(ROOTCA="2"))
    assert proxy.sent == {"ROOTCA": "2"}
    assert proxy.secrets == {"default": "1", "ROOTCA": "2"}
    # The proxy still has it, and so it is still reported: something may depend on it (invariant 4).
    assert proxy.states() == {"default": State.ACKNOWLEDGED, "ROOTCA": State.ACKNOWLEDGED}


def test_a_name_that_comes_back_unchanged_is_not_sent_again() -> None:
    proxy = subscribed("default")
    proxy.take(offered(default="1"))
    proxy.receive({})
    assert not proxy.receive(offered(default="1"))
    assert proxy.take(offered(default="2"))


class TestEmptyList:
    def test_asks_for_everything(self) -> None:
        proxy = subscribed()
        assert proxy.take(offered(default="1", ROOTCA="1"))
        assert proxy.secrets == {"default": "1", "ROOTCA": "1"}
        assert proxy.take(offered(default="1", ROOTCA="1", other="1"))
        assert proxy.secrets == {"default": "1", "ROOTCA": "1", "other": "1"}

    def test_with_nothing_to_give_stays_silent(self) -> None:
        proxy = subscribed()
        assert not proxy.receive({})
        assert proxy.take(offered(default="1"))

    def test_asks_for_everything_also_after_names_were_asked_for(self) -> None:
        proxy = subscribed("default")
        proxy.take(offered(default="1", ROOTCA="1"))
        proxy.names = ()
        proxy.ask()
        assert proxy.take(offered(default="1", ROOTCA="1"))
        assert proxy.secrets == {"default": "1", "ROOTCA": "1"}

    def test_is_also_said_with_a_star_beside_names(self) -> None:
        proxy = subscribed("x", "*")
        assert proxy.take(offered(default="1", ROOTCA="1"))
        assert proxy.secrets == {"default": "1", "ROOTCA": "1"}
        assert proxy.states()["x"] is State.WAITING

    def test_is_not_what_a_list_of_unusable_names_means(self) -> None:
        proxy = subscribed("x" * (MAX_NAME_BYTES + 1))
        assert not proxy.receive(offered(default="1"))


class TestAnswers:
    def test_an_ack_is_known_by_version_and_nonce(self) -> None:
        proxy = subscribed("default")
        proxy.receive(offered(default="1"))
        assert proxy.states() == {"default": State.SENT}
        assert proxy.ack() is Heard.ACKNOWLEDGED
        assert proxy.states() == {"default": State.ACKNOWLEDGED}

    def test_a_nack_is_kept_in_the_proxys_words_and_nothing_is_sent_until_the_content_changes(self) -> None:
        proxy = subscribed("default")
        proxy.take(offered(default="1"))
        proxy.receive(offered(default="2"))
        assert proxy.nack("Failed to load private key") is Heard.REFUSED
        (standing,) = proxy.stream.standings()
        assert (standing.state, standing.refusal) == (State.REFUSED, "Failed to load private key")
        for _ in range(3):
            assert not proxy.receive(offered(default="2"))
        assert proxy.take(offered(default="3"))
        assert proxy.states() == {"default": State.ACKNOWLEDGED}

    def test_going_back_to_what_was_good_is_a_change(self) -> None:
        proxy = subscribed("default")
        proxy.take(offered(default="1"))
        proxy.receive(offered(default="2"))
        proxy.nack()
        assert proxy.take(offered(default="1"))

    def test_a_refused_name_is_left_out_when_another_changes(self) -> None:
        """Else the good one would be refused with it."""
        proxy = subscribed("default", "ROOTCA")
        proxy.take(offered(ROOTCA="1"))
        proxy.receive(offered(default="1", ROOTCA="1"))
        proxy.nack()
        assert proxy.states() == {"default": State.REFUSED, "ROOTCA": State.ACKNOWLEDGED}
        assert proxy.take(offered(default="1", ROOTCA="2"))
        assert proxy.sent == {"ROOTCA": "2"}
        assert proxy.states() == {"default": State.REFUSED, "ROOTCA": State.ACKNOWLEDGED}

    @pytest.mark.invariant(8)
    def test_what_was_refused_together_is_offered_again_once_one_of_it_is_accepted(self) -> None:
        proxy = subscribed("default", "ROOTCA", "ALL")
        proxy.receive(offered(default="bad", ROOTCA="1", ALL="1"))
        proxy.nack()
        assert not proxy.receive(offered(default="bad", ROOTCA="1", ALL="1"))
        assert proxy.take(offered(default="2", ROOTCA="1", ALL="1"))
        assert proxy.sent == {"default": "2"}, "alone, since the others may be the bad ones"
        assert proxy.stream.is_owed
        assert proxy.take(offered(default="2", ROOTCA="1", ALL="1"))
        assert proxy.secrets == {"default": "2", "ROOTCA": "1", "ALL": "1"}
        assert not proxy.receive(offered(default="2", ROOTCA="1", ALL="1"))

    @pytest.mark.invariant(8)
    def test_what_is_really_bad_costs_one_more_refusal_for_each_change_and_withholds_nothing_else(self) -> None:
        proxy = subscribed("default", "ROOTCA")
        proxy.receive(offered(default="bad", ROOTCA="1"))
        proxy.nack()
        assert proxy.take(offered(default="bad", ROOTCA="2"))
        assert proxy.receive(offered(default="bad", ROOTCA="2"))
        proxy.nack()
        assert proxy.states() == {"default": State.REFUSED, "ROOTCA": State.ACKNOWLEDGED}
        for _ in range(3):
            assert not proxy.receive(offered(default="bad", ROOTCA="2"))
        assert proxy.take(offered(default="bad", ROOTCA="3"))
        assert not proxy.receive(offered(default="bad", ROOTCA="3"))
        assert proxy.secrets == {"ROOTCA": "3"}

    def test_an_answer_to_what_was_overtaken_is_no_answer(self) -> None:
        proxy = subscribed("default")
        proxy.receive(offered(default="1"))
        overtaken = proxy.nonce
        proxy.receive(offered(default="2"))
        assert proxy.ask(response_nonce=overtaken, version_info=proxy.sent_version) is Heard.STALE_NONCE
        assert proxy.nack(response_nonce=overtaken) is Heard.STALE_NONCE
        assert proxy.states() == {"default": State.SENT}
        assert not proxy.receive(offered(default="2"))
        assert proxy.ack() is Heard.ACKNOWLEDGED

    def test_a_stale_request_does_not_change_the_names_either(self) -> None:
        proxy = subscribed("default")
        proxy.take(offered(default="1"))
        assert proxy.ask(response_nonce="made up", resource_names=["other"]) is Heard.STALE_NONCE
        assert proxy.states() == {"default": State.ACKNOWLEDGED}

    @pytest.mark.invariant(3)
    def test_a_change_of_names_after_a_nack_is_no_ack(self) -> None:
        proxy = subscribed("default")
        proxy.take(offered(default="1"))
        proxy.receive(offered(default="2"))
        proxy.nack()
        assert proxy.ask(resource_names=["default", "other"]) is Heard.SUBSCRIBED
        assert proxy.states() == {"default": State.REFUSED, "other": State.WAITING}

    @pytest.mark.invariant(3)
    def test_a_change_of_names_before_the_answer_is_no_ack(self) -> None:
        proxy = subscribed("default")
        proxy.take(offered(default="1"))
        accepted = proxy.nonce
        proxy.receive(offered(default="2"))
        assert proxy.ask(response_nonce="", resource_names=["default", "other"]) is Heard.SUBSCRIBED
        assert proxy.ask(response_nonce=accepted) is Heard.STALE_NONCE
        assert proxy.states() == {"default": State.SENT, "other": State.WAITING}

    @pytest.mark.invariant(3)
    def test_a_response_is_answered_once(self) -> None:
        proxy = subscribed("default")
        proxy.receive(offered(default="1"))
        proxy.nack()
        proxy.ack()
        assert proxy.states() == {"default": State.REFUSED}
        other = subscribed("default")
        other.take(offered(default="1"))
        other.nack()
        assert other.states() == {"default": State.ACKNOWLEDGED}

    def test_an_ack_answers_all_that_the_response_held(self) -> None:
        proxy = subscribed("default", "ROOTCA")
        proxy.receive(offered(default="1"))
        proxy.receive(offered(default="1", ROOTCA="1"))
        proxy.ack()
        assert set(proxy.states().values()) == {State.ACKNOWLEDGED}

    def test_an_unchanged_secret_stays_acknowledged_when_another_is_sent(self) -> None:
        proxy = subscribed("default", "ROOTCA")
        proxy.take(offered(default="1", ROOTCA="1"))
        proxy.receive(offered(default="2", ROOTCA="1"))
        assert proxy.states() == {"default": State.SENT, "ROOTCA": State.ACKNOWLEDGED}

    @pytest.mark.parametrize("text", ["line\nbreak", "\x1b[31mred", "x" * 10_000])
    def test_a_refusal_cannot_spoil_a_log(self, text: str) -> None:
        proxy = subscribed("default")
        proxy.receive(offered(default="1"))
        proxy.nack(text)
        (standing,) = proxy.stream.standings()
        assert standing.refusal.isprintable()
        assert 0 < len(standing.refusal) <= MAX_REFUSAL_CHARACTERS


class TestWrongType:
    @pytest.mark.parametrize(
        "type_url", ["type.googleapis.com/envoy.config.cluster.v3.Cluster", "x", SECRET_TYPE_URL + "s"]
    )
    def test_is_ignored_wholly(self, type_url: str) -> None:
        proxy = subscribed("default")
        proxy.receive(offered(default="1"))
        for _ in range(100):
            assert proxy.ask(type_url=type_url, resource_names=["other"]) is Heard.WRONG_TYPE
        assert not proxy.receive(offered(default="1", other="1"))
        assert proxy.states() == {"default": State.SENT}

    def test_as_the_first_request_leaves_the_stream_open_for_the_right_one(self) -> None:
        proxy = Proxy("default")
        proxy.ask(type_url="x")
        assert not proxy.receive(offered(default="1"))
        proxy.ask()
        assert proxy.take(offered(default="1"))

    def test_an_absent_type_can_only_mean_this_service(self) -> None:
        proxy = Proxy("default")
        assert proxy.ask(type_url="") is Heard.SUBSCRIBED
        assert proxy.take(offered(default="1"))


class TestReconnect:
    def test_with_what_would_be_sent_counts_as_acknowledged(self) -> None:
        before = subscribed("ROOTCA", "default")
        before.take(offered(default="1", ROOTCA="1"))
        after = subscribed("default", "ROOTCA", version=before.version)
        assert not after.receive(offered(default="1", ROOTCA="1"))
        assert after.states() == {"default": State.ACKNOWLEDGED, "ROOTCA": State.ACKNOWLEDGED}
        assert after.take(offered(default="2", ROOTCA="1"))

    @pytest.mark.parametrize("nonce", ["", "1", "7"])
    def test_with_a_nonce_of_the_stream_before_is_heard(self, nonce: str) -> None:
        proxy = Proxy("default", version="old", nonce=nonce)
        assert proxy.ask() is Heard.SUBSCRIBED
        response = proxy.stream.offer(Available(offered(default="1")))
        assert response is not None

    def test_with_something_older_is_answered(self) -> None:
        before = subscribed("default")
        before.take(offered(default="1"))
        after = subscribed("default", version=before.version)
        assert after.take(offered(default="2"))

    def test_is_no_reason_to_withhold_the_old_content_once_something_newer_was_sent(self) -> None:
        before = subscribed("default")
        before.take(offered(default="1"))
        after = subscribed("default", version=before.version)
        assert after.take(offered(default="2"))
        assert after.take(offered(default="1"))

    def test_is_no_reason_to_withhold_a_name_that_was_given_up_and_asked_for_again(self) -> None:
        before = subscribed("default")
        before.take(offered(default="1"))
        after = subscribed("default", version=before.version)
        assert not after.receive(offered(default="1"))
        after.ask(resource_names=["other"])
        after.ask(resource_names=["default"])
        assert after.take(offered(default="1"))

    def test_before_the_agent_has_its_certificates_again_is_still_remembered(self) -> None:
        before = subscribed("ROOTCA")
        before.take(offered(ROOTCA="1"))
        after = subscribed("ROOTCA", version=before.version)
        assert not after.receive({})
        assert not after.receive(offered(ROOTCA="1"))
        assert after.states() == {"ROOTCA": State.ACKNOWLEDGED}

    def test_of_a_proxy_that_has_nothing_is_answered(self) -> None:
        assert subscribed("default").take(offered(default="1"))


class TestWhatTheProxyHolds:
    """A root may not go while a proxy holds something under it."""

    def test_is_what_it_acknowledged_last(self) -> None:
        proxy = subscribed("default")
        proxy.receive(offered(default="1"))
        assert proxy.held() == {}
        proxy.ack()
        assert proxy.held() == {"default": "1"}
        proxy.receive(offered(default="2"))
        assert (proxy.states(), proxy.held()) == ({"default": State.SENT}, {"default": "1"})
        proxy.nack()
        assert (proxy.states(), proxy.held()) == ({"default": State.REFUSED}, {"default": "1"})
        proxy.take(offered(default="3"))
        assert proxy.held() == {"default": "3"}

    def test_stays_when_the_name_is_taken_away(self) -> None:
        proxy = subscribed("default")
        proxy.take(offered(default="1"))
        proxy.receive({})
        assert proxy.held() == {"default": "1"}

    def test_follows_late_answers_though_the_newest_is_still_awaited(self) -> None:
        """A proxy that was stopped acknowledges each version in order when it goes on."""
        proxy = subscribed("default")
        proxy.take(offered(default="1"))
        proxy.receive(offered(default="2"))
        late = {"response_nonce": proxy.nonce, "version_info": proxy.sent_version}
        proxy.receive(offered(default="3"))
        assert proxy.ask(**late) is Heard.STALE_NONCE
        assert (proxy.states(), proxy.held()) == ({"default": State.SENT}, {"default": "2"})
        proxy.nack()
        assert (proxy.states(), proxy.held()) == ({"default": State.REFUSED}, {"default": "2"})
        assert proxy.ask(**late) is Heard.STALE_NONCE
        assert proxy.held() == {"default": "2"}

    def test_does_not_follow_a_late_refusal(self) -> None:
        proxy = subscribed("default")
        proxy.take(offered(default="1"))
        proxy.receive(offered(default="2"))
        late = proxy.nonce
        proxy.receive(offered(default="3"))
        assert proxy.nack(response_nonce=late) is Heard.STALE_NONCE
        assert proxy.held() == {"default": "1"}

    def test_of_what_nobody_answers_only_the_newest_is_remembered(self) -> None:
        proxy = subscribed("default")
        for version in range(1000):
            proxy.receive(offered(default=str(version)))
        assert len(proxy.stream._unanswered) < 100
        proxy.ack()
        assert proxy.held() == {"default": "999"}

    def test_of_before_is_known_by_its_version_alone(self) -> None:
        before = subscribed("default")
        before.take(offered(default="1"))
        after = subscribed("default", "other", version=before.version)
        assert after.held() == {"default": before.version, "other": before.version}
        after.receive(offered(default="2"))
        assert (after.states()["default"], after.held()["default"]) == (State.SENT, before.version)
        after.nack()
        assert after.held()["default"] == before.version
        after.ask(resource_names=["other"])
        after.ask(resource_names=["default"])
        after.receive(offered(default="3"))
        assert after.held() == {}, "what it gave up it does not hold any more"

    def test_of_before_counts_for_everything_that_was_asked_for(self) -> None:
        after = subscribed(version="old")
        after.receive(offered(default="2"))
        assert after.held() == {"default": "old"}

    def test_is_known_in_full_when_it_is_what_would_be_sent(self) -> None:
        before = subscribed("default")
        before.take(offered(default="1"))
        after = subscribed("default", version=before.version)
        after.receive(offered(default="1"))
        (standing,) = after.stream.standings()
        assert standing.held == Held("1", resource("default", "1").facts)


class TestChangedNames:
    def test_a_name_added_with_an_ack_is_sent_at_once(self) -> None:
        proxy = subscribed("default")
        proxy.receive(offered(default="1", ROOTCA="1"))
        proxy.names = ("default", "ROOTCA")
        assert proxy.ack() is Heard.ACKNOWLEDGED
        assert proxy.take(offered(default="1", ROOTCA="1"))
        assert proxy.secrets == {"default": "1", "ROOTCA": "1"}

    def test_a_name_dropped_is_forgotten_and_sent_when_it_is_asked_for_again(self) -> None:
        proxy = subscribed("default", "ROOTCA")
        proxy.take(offered(default="1", ROOTCA="1"))
        proxy.names = ("ROOTCA",)
        proxy.ask()
        assert proxy.states() == {"ROOTCA": State.ACKNOWLEDGED}
        assert not proxy.receive(offered(default="2", ROOTCA="1"))
        proxy.names = ("ROOTCA", "default")
        proxy.ask()
        assert proxy.take(offered(default="2", ROOTCA="1"))

    def test_a_name_given_twice_is_one_name(self) -> None:
        proxy = subscribed("default", "default")
        proxy.take(offered(default="1"))
        assert list(proxy.states()) == ["default"]


def test_names_beyond_the_limit_are_ignored_and_counted() -> None:
    proxy = subscribed(*(f"n{number}" for number in range(MAX_NAMES + 5)), "x" * (MAX_NAME_BYTES + 1))
    assert proxy.stream.ignored_names == 6
    assert proxy.take({f"n{number}": resource(f"n{number}") for number in range(MAX_NAMES + 5)})
    assert len(proxy.secrets) == MAX_NAMES


def test_all_names_together_are_bounded_too() -> None:
    long = [f"{number:03}" + "x" * (MAX_NAME_BYTES - 3) for number in range(MAX_NAMES)]
    proxy = subscribed(*long)
    assert len(proxy.stream.standings()) == MAX_BYTES // MAX_NAME_BYTES
    assert proxy.stream.ignored_names == MAX_NAMES - MAX_BYTES // MAX_NAME_BYTES


def test_it_says_when_another_look_at_the_same_things_could_give_something() -> None:
    """Only then the service looks: an ACK of each of a thousand streams must not cost a look each."""
    proxy = subscribed("default", "ROOTCA")
    assert proxy.stream.is_owed
    proxy.receive(offered(default="1", ROOTCA="1"))
    assert not proxy.stream.is_owed
    proxy.ack()
    assert not proxy.stream.is_owed
    proxy.ask(resource_names=["default"])
    assert proxy.stream.is_owed


def test_the_version_stands_for_names_and_contents_together() -> None:
    def version(available: dict[str, Resource]) -> str:
        proxy = subscribed()
        proxy.receive(available)
        return proxy.sent_version

    versions = [
        version(offered(**each))
        for each in (
            {"a": "1"},
            {"a": "2"},
            {"b": "1"},
            {"a": "1", "b": "1"},
            {"a": "2", "b": "1"},
            {"a": "1", "b": "2"},
        )
    ]
    assert len(set(versions)) == len(versions)
    assert version(offered(b="1", a="1")) == version(offered(a="1", b="1"))


@pytest.mark.parametrize("is_answered", [True, False])
def test_new_facts_of_the_same_content_are_reported_without_a_push(is_answered: bool) -> None:
    """A bundle's sequence also rises when only a JWT key was added."""

    def bundle(sequence: int) -> dict[str, Resource]:
        return {"ROOTCA": Resource("ROOTCA", "1", BundleFacts("a.test", sequence), resource("ROOTCA").body)}

    proxy = subscribed("ROOTCA")
    proxy.receive(bundle(1))
    if is_answered:
        proxy.ack()
    assert not proxy.receive(bundle(2))
    (standing,) = proxy.stream.standings()
    assert standing.resource is not None
    assert standing.resource.facts == BundleFacts("a.test", 2)
    assert standing.state is (State.ACKNOWLEDGED if is_answered else State.SENT)


def test_the_node_is_kept_from_the_request_that_names_it() -> None:
    proxy = Proxy("default")
    proxy.ask(node={"id": "sidecar\n1"})
    proxy.ask()
    assert proxy.stream.node_id == "sidecar 1"

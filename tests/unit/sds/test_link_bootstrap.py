from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from datetime import timedelta

import pytest
import structlog
from cryptography.hazmat.primitives.asymmetric import ec

from citadel.clock import SystemClock
from citadel.config.types import HostPort
from citadel.errors import CitadelError, InvalidArgument, Kind, Reason, Unauthenticated
from citadel.join_string import JoinString
from citadel.spiffe import TrustDomain
from citadel.succession import Succession
from sds.keep.keys import new_key
from sds.link.bootstrap import Bootstrap, Invitation, parse_bundle_file
from sds.link.credentials import Token
from tests.unit.sds.fake_authority import A_TEST, FakeAuthority
from tests.unit.sds.fake_server import AGENT, QUICK, FakeBootstrap, now, serve_bootstrap

TOKEN = "a-token-of-the-test"
KEY = new_key("ec-p256")


@dataclass
class Scene:
    """A server, and the right invitation to it."""

    authority: FakeAuthority
    service: FakeBootstrap
    bootstrap: Bootstrap
    invitation: Invitation


@pytest.fixture
async def scene() -> AsyncIterator[Scene]:
    authority = FakeAuthority(now())
    service = FakeBootstrap(authority)
    server, address = await serve_bootstrap(service, authority)
    join_string = JoinString(
        address=address, trust_domain=A_TEST, bundle_sha256=authority.bundle.x509_digest(), token=TOKEN
    )
    bootstrap = Bootstrap(trust_domain=A_TEST, reconnect=QUICK, clock=SystemClock())
    yield Scene(authority, service, bootstrap, Invitation.of(join_string))
    await server.stop(None)


def with_digest_of(invitation: Invitation, other: FakeAuthority) -> Invitation:
    return replace(invitation, bundle_sha256=other.bundle.x509_digest())


@pytest.mark.invariant(1)
async def test_joining_gives_an_identity_for_the_key(scene: Scene) -> None:
    identity = await scene.bootstrap.join(scene.invitation, key=KEY)
    assert scene.service.tokens == [TOKEN]
    assert identity.svid.spiffe_id == AGENT
    assert identity.svid.leaf.public_key() == identity.key.public_key() == KEY.public_key()
    assert identity.bundle == scene.authority.bundle
    assert identity.agent_api == HostPort("127.0.0.1", 8444)
    assert identity.bootstrap == scene.invitation.servers[0]


@pytest.mark.parametrize("as_file", ["json", "pem"])
async def test_a_bundle_file_is_enough_to_know_the_server_by(scene: Scene, as_file: str) -> None:
    bundle = scene.authority.bundle
    known = parse_bundle_file(A_TEST, bundle.to_json() if as_file == "json" else bundle.to_pem())
    invitation = replace(with_digest_of(scene.invitation, FakeAuthority(now(), "other")), known_bundle=known)
    assert (await scene.bootstrap.join(invitation, key=KEY)).svid.spiffe_id == AGENT


async def test_a_bundle_file_may_be_one_root_behind(scene: Scene) -> None:
    added = FakeAuthority(now(), "added")
    both = (*scene.authority.bundle.x509_authorities, *added.bundle.x509_authorities)
    scene.service.bundle = replace(scene.authority.bundle, x509_authorities=both)
    identity = await scene.bootstrap.join(replace(scene.invitation, known_bundle=scene.authority.bundle), key=KEY)
    assert identity.bundle == scene.service.bundle


async def test_a_server_with_another_bundle_than_the_join_string_names_never_sees_the_token(scene: Scene) -> None:
    with pytest.raises(Unauthenticated) as refused:
        await scene.bootstrap.join(with_digest_of(scene.invitation, FakeAuthority(now(), "other")), key=KEY)
    assert refused.value.reason is Reason.BUNDLE_MISMATCH
    assert scene.service.tokens == []
    assert TOKEN not in str(refused.value)


async def test_a_server_with_another_bundle_than_the_file_never_sees_the_token(scene: Scene) -> None:
    known = FakeAuthority(now(), "other").bundle
    with pytest.raises(Unauthenticated) as refused:
        await scene.bootstrap.join(replace(scene.invitation, known_bundle=known), key=KEY)
    assert refused.value.reason is Reason.BUNDLE_MISMATCH
    assert scene.service.tokens == []


@pytest.mark.parametrize("by_file", [False, True])
async def test_a_liar_that_shows_the_right_bundle_and_lacks_its_keys_never_sees_the_token(by_file: bool) -> None:
    real, liar = FakeAuthority(now(), "real"), FakeAuthority(now(), "liar")
    service = FakeBootstrap(liar)
    service.bundle = real.bundle
    server, address = await serve_bootstrap(service, liar)
    join_string = JoinString(address=address, trust_domain=A_TEST, bundle_sha256=real.bundle.x509_digest(), token=TOKEN)
    bootstrap = Bootstrap(trust_domain=A_TEST, reconnect=QUICK, clock=SystemClock())
    with pytest.raises(CitadelError) as refused:
        await bootstrap.join(Invitation.of(join_string, known_bundle=real.bundle if by_file else None), key=KEY)
    assert refused.value.kind is Kind.UNAVAILABLE
    assert service.tokens == []
    await server.stop(None)


async def test_insecure_bootstrap_believes_anyone_and_says_so(scene: Scene) -> None:
    invitation = replace(with_digest_of(scene.invitation, FakeAuthority(now(), "other")), insecure=True)
    with structlog.testing.capture_logs() as logs:
        await scene.bootstrap.join(invitation, key=KEY)
    assert scene.service.tokens == [TOKEN]
    assert [log["log_level"] for log in logs if "INSECURE" in log["event"]] == ["warning"]
    assert TOKEN not in str(logs)


async def test_a_bundle_of_another_trust_domain_is_refused_before_the_token_is_sent(scene: Scene) -> None:
    scene.service.bundle = replace(scene.authority.bundle, trust_domain=TrustDomain("b.test"))
    with pytest.raises(Unauthenticated) as refused:
        await scene.bootstrap.join(replace(scene.invitation, insecure=True), key=KEY)
    assert refused.value.reason is Reason.BUNDLE_MISMATCH
    assert scene.service.tokens == []


async def test_a_join_string_of_another_trust_domain_is_refused_before_anything_is_sent(scene: Scene) -> None:
    with pytest.raises(InvalidArgument) as refused:
        await scene.bootstrap.join(replace(scene.invitation, trust_domain=TrustDomain("b.test")), key=KEY)
    assert refused.value.reason is Reason.CONFIG_INVALID


async def test_what_the_server_refuses_is_told_with_its_reason(scene: Scene) -> None:
    scene.service.refusal = Unauthenticated(Reason.TOKEN_USED, "the token was used")
    with pytest.raises(Unauthenticated) as refused:
        await scene.bootstrap.join(scene.invitation, key=KEY)
    assert refused.value.reason is Reason.TOKEN_USED


@pytest.mark.invariant(9)
@pytest.mark.parametrize("fault", ["workload id", "server id", "other trust domain", "other key", "other root"])
async def test_a_wrong_answer_is_no_identity(scene: Scene, fault: str) -> None:
    match fault:
        case "workload id":
            scene.service.answered_id = A_TEST.member("web")
        case "server id":
            scene.service.answered_id = A_TEST.member("citadel", "server")
        case "other trust domain":
            scene.service.answered_id = TrustDomain("b.test").member("citadel", "agent", "n1")
        case "other key":
            scene.service.answered_key = new_key("ec-p256")
        case "other root":
            scene.service.authority = FakeAuthority(now(), "other")
    with pytest.raises(Unauthenticated) as refused:
        await scene.bootstrap.join(scene.invitation, key=KEY)
    assert refused.value.reason is Reason.SVID_UNTRUSTED


async def test_nobody_listening_is_worth_another_try() -> None:
    join_string = JoinString(address=HostPort("127.0.0.1", 1), trust_domain=A_TEST, bundle_sha256="0" * 64, token=TOKEN)
    bootstrap = Bootstrap(trust_domain=A_TEST, reconnect=QUICK, clock=SystemClock())
    with pytest.raises(CitadelError) as refused:
        await bootstrap.join(Invitation.of(join_string), key=KEY)
    assert refused.value.kind is Kind.UNAVAILABLE


@pytest.mark.parametrize(
    "data", [b"", b"{}", b"{", b"garbage", b"-----BEGIN CERTIFICATE-----\n-----END CERTIFICATE-----"]
)
def test_a_bundle_file_that_is_none_is_refused(data: bytes) -> None:
    with pytest.raises(InvalidArgument) as refused:
        parse_bundle_file(A_TEST, data)
    assert refused.value.reason is Reason.BUNDLE_MALFORMED


class TestAServerWhoseRootsAreAllNew:
    """It was known by a root that is gone; what that root said before it went decides."""

    @staticmethod
    def said(by: FakeAuthority, heir: FakeAuthority, *, until: timedelta = timedelta(hours=1)) -> Succession:
        assert isinstance(by.root.key, ec.EllipticCurvePrivateKey)
        return Succession.signed(
            trust_domain=A_TEST,
            root=by.root.certificate,
            key=by.root.key,
            heirs=[heir.root.certificate],
            until=now() + until,
        )

    async def test_is_believed_by_the_word_of_the_root_that_was_known(self, scene: Scene) -> None:
        gone, between = FakeAuthority(now(), "gone"), FakeAuthority(now(), "between")
        scene.service.successions = [self.said(between, scene.authority), self.said(gone, between)]
        identity = await scene.bootstrap.join(replace(scene.invitation, known_bundle=gone.bundle), key=KEY)
        assert identity.bundle == scene.authority.bundle

    async def test_is_believed_by_it_also_while_the_root_that_was_known_is_still_there(self, scene: Scene) -> None:
        """Between `activate` and `retire` the bundle has both, and the server proves itself by the new one alone."""
        old = FakeAuthority(now(), "old")
        scene.service.successions = [self.said(old, scene.authority)]
        both = (*old.bundle.x509_authorities, *scene.authority.bundle.x509_authorities)
        scene.service.bundle = replace(scene.authority.bundle, x509_authorities=both)
        identity = await scene.bootstrap.join(replace(scene.invitation, known_bundle=old.bundle), key=KEY)
        assert identity.bundle == scene.service.bundle

    async def test_is_not_believed_once_that_word_has_ended(self, scene: Scene) -> None:
        gone = FakeAuthority(now(), "gone")
        scene.service.successions = [self.said(gone, scene.authority, until=timedelta(0))]
        with pytest.raises(Unauthenticated) as refused:
            await scene.bootstrap.join(replace(scene.invitation, known_bundle=gone.bundle), key=KEY)
        assert refused.value.reason is Reason.BUNDLE_MISMATCH
        assert scene.service.tokens == []

    async def test_an_impostor_with_a_true_word_for_another_root_never_sees_what_lets_in(self) -> None:
        gone, real, liar = (FakeAuthority(now(), name) for name in ("gone", "real", "liar"))
        for shown, reason in ((real, Kind.UNAVAILABLE), (liar, Kind.UNAUTHENTICATED)):
            service = FakeBootstrap(liar)
            service.bundle = shown.bundle
            service.successions = [self.said(gone, real), self.said(liar, liar)]
            server, address = await serve_bootstrap(service, liar)
            invitation = Invitation(
                trust_domain=A_TEST, servers=(address,), credential=Token(TOKEN), known_bundle=gone.bundle
            )
            bootstrap = Bootstrap(trust_domain=A_TEST, reconnect=QUICK, clock=SystemClock())
            with pytest.raises(CitadelError) as refused:
                await bootstrap.join(invitation, key=KEY)
            assert refused.value.kind is reason
            assert service.tokens == []
            await server.stop(None)

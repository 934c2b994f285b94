"""The lines FED-* about who fetches bundles: endpoints that are good, and every kind of bad one, over real TLS."""

from __future__ import annotations

import asyncio
import gc
import gzip
import weakref
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from ca.federation.fetching import BundleFetcher
from ca.federation.model import Federation
from ca.federation.proving import SpiffeProofs, WebTrust
from ca.federation.rules import MAX_DOCUMENT_BYTES
from ca.federation.settings import Profile
from citadel.bundle import TrustBundle
from citadel.clock import SystemClock
from citadel.errors import CitadelError, Reason
from citadel.spiffe import SpiffeId, TrustDomain
from tests.certificates import Signed, intermediate, permitted, rsa_key, san
from tests.foreign import Endpoint, ForeignDomain, endpoint_of, times
from tests.issuer_server import drips, keeps_silent, leads_to, says
from tests.odd_authorities import odd_authorities
from tests.strangers import WebCa

C_TEST = TrustDomain("c.test")
FOREIGN, OTHER = ForeignDomain(), ForeignDomain(C_TEST)
HOST = "bundles.b.test"


def loopback(host: str, _port: int) -> Sequence[str]:
    return [host if host[0].isdigit() else "127.0.0.1"]


@pytest.fixture(scope="module")
def ca() -> WebCa:
    return WebCa()


@pytest.fixture
async def endpoint() -> AsyncIterator[Endpoint]:
    async with endpoint_of(FOREIGN) as endpoint:
        yield endpoint


@pytest.fixture
def fetcher(ca: WebCa, tmp_path: Path) -> BundleFetcher:
    ca_file = tmp_path / "ca.pem"
    ca_file.write_bytes(ca.pem)
    return BundleFetcher(
        web=WebTrust(ca_file=ca_file, clock=SystemClock()), clock=SystemClock(), look_up=loopback, patience=20
    )


@pytest.fixture
def spiffe(endpoint: Endpoint) -> Federation:
    """A federation by https_spiffe, whose endpoint is good."""
    return FOREIGN.federation(endpoint.url)


@pytest.fixture
def web(endpoint: Endpoint, ca: WebCa) -> Federation:
    """A federation by https_web, whose endpoint is good."""
    endpoint.shows(ca.certificate(HOST))
    url = f"https://{HOST}:{endpoint.server.port}/"
    return FOREIGN.federation(url, profile=Profile.HTTPS_WEB, endpoint_id=None)


@pytest.fixture(params=["spiffe", "web"])
def either(request: pytest.FixtureRequest) -> Federation:
    """A good one of each profile."""
    federation: Federation = request.getfixturevalue(request.param)
    return federation


async def refused(fetcher: BundleFetcher, federation: Federation, trust: TrustBundle | None = None) -> CitadelError:
    with pytest.raises(CitadelError) as refusal:
        await fetcher(federation, trust if trust is not None else FOREIGN.bundle())
    return refusal.value


@pytest.mark.spec("FED-01", "FED-02", "FED-22", "FED-25")
async def test_both_profiles_bring_the_document(fetcher: BundleFetcher, either: Federation, endpoint: Endpoint) -> None:
    assert await fetcher(either, FOREIGN.bundle()) == FOREIGN.bundle().to_json()
    (asked,) = endpoint.server.asked
    assert asked.headers["accept-encoding"] == "identity"


# --- who the endpoint is


@pytest.mark.spec("FED-22")
@pytest.mark.parametrize(
    "certificate",
    [
        pytest.param(lambda ca: ca.certificate("other.b.test"), id="another name"),
        pytest.param(lambda ca: ca.certificate(HOST, names=san(dns=["127.0.0.1"])), id="no such name"),
        pytest.param(lambda _: WebCa().certificate(HOST), id="another authority"),
        pytest.param(
            lambda ca: ca.certificate(HOST, not_after=datetime.now(UTC) - timedelta(seconds=1)), id="one that has ended"
        ),
    ],
)
async def test_the_web_certificate_must_be_trusted_and_of_the_host(
    fetcher: BundleFetcher, web: Federation, endpoint: Endpoint, ca: WebCa, certificate: Callable[[WebCa], Signed]
) -> None:
    endpoint.shows(certificate(ca))
    assert (await refused(fetcher, web)).reason is Reason.ENDPOINT_UNTRUSTED
    assert endpoint.server.asked == []


@pytest.mark.spec("FED-22")
async def test_without_a_file_the_systems_authorities_count(web: Federation, endpoint: Endpoint) -> None:
    by_system = BundleFetcher(web=WebTrust(ca_file=None, clock=SystemClock()), clock=SystemClock(), look_up=loopback)
    assert (await refused(by_system, web)).reason is Reason.ENDPOINT_UNTRUSTED
    assert endpoint.server.asked == []


@pytest.mark.parametrize("content", [None, b"no PEM"])
async def test_a_ca_file_that_is_none_is_named(web: Federation, tmp_path: Path, content: bytes | None) -> None:
    ca_file = tmp_path / "broken.pem"
    if content is not None:
        ca_file.write_bytes(content)
    broken = BundleFetcher(web=WebTrust(ca_file=ca_file, clock=SystemClock()), clock=SystemClock(), look_up=loopback)
    refusal = await refused(broken, web)
    assert refusal.reason is Reason.ENDPOINT_UNTRUSTED
    assert "broken.pem" in refusal.message


async def test_another_ca_file_counts_from_the_next_fetch_on(web: Federation, ca: WebCa, tmp_path: Path) -> None:
    ca_file = tmp_path / "changing.pem"
    ca_file.write_bytes(WebCa().pem)
    fetcher = BundleFetcher(web=WebTrust(ca_file=ca_file, clock=SystemClock()), clock=SystemClock(), look_up=loopback)
    assert (await refused(fetcher, web)).reason is Reason.ENDPOINT_UNTRUSTED
    ca_file.write_bytes(ca.pem + b"\n")
    assert await fetcher(web, None) == FOREIGN.bundle().to_json()


def _no_id(**_: Any) -> Signed:
    return FOREIGN.svid(names=san(dns=[HOST]))


@pytest.mark.spec("FED-23", "FED-25")
@pytest.mark.parametrize(
    ("shown", "words"),
    [
        pytest.param(
            lambda: (FOREIGN.svid("/other"), FOREIGN.issuer), "is spiffe://b.test/other, not", id="other path"
        ),
        pytest.param(
            lambda: (FOREIGN.svid("/endpoint/"), FOREIGN.issuer), "no good X509-SVID", id="nearly the same path"
        ),
        pytest.param(
            lambda: (FOREIGN.svid(names=san("spiffe://c.test/endpoint")), FOREIGN.issuer),
            "no bundle",
            id="other domain",
        ),
        pytest.param(lambda: (_no_id(), FOREIGN.issuer), "0 URI SANs", id="no SPIFFE ID"),
        pytest.param(
            lambda: (FOREIGN.svid(names=san("spiffe://b.test/endpoint", "spiffe://b.test/2")), FOREIGN.issuer),
            "2 URI SANs",
            id="two SPIFFE IDs",
        ),
        pytest.param(lambda: (OTHER.svid(), OTHER.issuer), "certificate", id="another domain's authority"),
        pytest.param(lambda: (FOREIGN.svid(),), "certificate", id="a chain with a gap"),
        pytest.param(
            lambda: (FOREIGN.svid(not_after=datetime.now(UTC) - timedelta(seconds=1)), FOREIGN.issuer),
            "certificate",
            id="one that has ended",
        ),
        pytest.param(lambda: (ForeignDomain().svid(), FOREIGN.issuer), "certificate", id="the same names, other keys"),
        pytest.param(lambda: (FOREIGN.issuer,), "", id="the authority itself"),
        pytest.param(lambda: (FOREIGN.svid(key=rsa_key(1024)), FOREIGN.issuer), "", id="a weak key"),
    ],
)
async def test_the_endpoint_must_be_exactly_who_was_configured(
    fetcher: BundleFetcher, spiffe: Federation, endpoint: Endpoint, shown: Callable[[], Sequence[Signed]], words: str
) -> None:
    endpoint.shows(*shown())
    refusal = await refused(fetcher, spiffe)
    assert refusal.reason is Reason.ENDPOINT_UNTRUSTED, refusal
    assert words in refusal.message
    assert endpoint.server.asked == []  # whoever is somebody else is not even asked


@pytest.mark.spec("FED-25")
@pytest.mark.parametrize(
    "changes", [{}, {"names": san("spiffe://b.test/endpoint", dns=["elsewhere.test"])}, {"key": rsa_key()}]
)
async def test_its_dns_names_do_not_matter(
    fetcher: BundleFetcher, spiffe: Federation, endpoint: Endpoint, changes: dict[str, Any]
) -> None:
    endpoint.shows(FOREIGN.svid(**changes), FOREIGN.issuer)
    for host in ("127.0.0.1", HOST):
        federation = replace(spiffe, endpoint_url=f"https://{host}:{endpoint.server.port}/")
        assert await fetcher(federation, FOREIGN.bundle()) == FOREIGN.bundle().to_json()


@pytest.mark.spec("FED-24", "FED-28")
async def test_its_trust_domain_may_be_another_one_whose_bundle_is_known(
    fetcher: BundleFetcher, spiffe: Federation, endpoint: Endpoint
) -> None:
    endpoint.shows(OTHER.svid(), OTHER.issuer)
    by_other = replace(spiffe, endpoint_id=SpiffeId(C_TEST, "/endpoint"))
    assert await fetcher(by_other, OTHER.bundle()) == FOREIGN.bundle().to_json()
    for trust in (FOREIGN.bundle(), ForeignDomain(C_TEST).bundle(), replace(OTHER.bundle(), x509_authorities=())):
        assert (await refused(fetcher, by_other, trust)).reason is Reason.ENDPOINT_UNTRUSTED


@pytest.mark.spec("FED-24")
async def test_without_a_bundle_nobody_is_asked(fetcher: BundleFetcher, spiffe: Federation, endpoint: Endpoint) -> None:
    with pytest.raises(CitadelError) as refusal:
        await fetcher(spiffe, None)
    assert refusal.value.reason is Reason.ENDPOINT_UNTRUSTED
    assert endpoint.server.connections == 0


@pytest.mark.spec("FED-06")
async def test_no_profile_falls_back_to_the_other(
    fetcher: BundleFetcher, spiffe: Federation, web: Federation, endpoint: Endpoint, ca: WebCa
) -> None:
    endpoint.shows(ca.certificate(HOST))
    as_spiffe = replace(spiffe, endpoint_url=web.endpoint_url)
    assert (await refused(fetcher, as_spiffe)).reason is Reason.ENDPOINT_UNTRUSTED
    endpoint.shows(FOREIGN.svid(names=san("spiffe://b.test/endpoint", dns=[HOST])), FOREIGN.issuer)
    assert (await refused(fetcher, web)).reason is Reason.ENDPOINT_UNTRUSTED
    assert endpoint.server.asked == []


async def test_a_bundle_that_tls_cannot_use_is_a_refusal_as_any_other(
    fetcher: BundleFetcher, spiffe: Federation
) -> None:
    odd = next(signed for problem, signed in odd_authorities() if problem.startswith("UTF-8"))
    let_in = FOREIGN.bundle()
    object.__setattr__(let_in, "x509_authorities", (odd.certificate,))  # no bundle is made with it
    assert (await refused(fetcher, spiffe, let_in)).reason is Reason.ENDPOINT_UNTRUSTED


async def test_one_proof_is_kept_for_each_federation_and_made_again_for_other_authorities() -> None:
    proofs, server = SpiffeProofs(clock=SystemClock()), SpiffeId(FOREIGN.trust_domain, "/endpoint")
    first = await proofs.of(FOREIGN.trust_domain, server, FOREIGN.bundle(sequence=1))
    kept = weakref.ref(first)
    assert await proofs.of(FOREIGN.trust_domain, server, FOREIGN.bundle(sequence=2)) is first
    other = ForeignDomain()
    assert await proofs.of(FOREIGN.trust_domain, server, other.bundle()) is not first
    assert await proofs.of(C_TEST, SpiffeId(C_TEST, "/endpoint"), OTHER.bundle()) is not first
    del first
    gc.collect()
    assert kept() is None


async def test_constraints_of_an_authority_hold(fetcher: BundleFetcher, endpoint: Endpoint) -> None:
    bound = ForeignDomain()
    bound.issuer = intermediate(bound.root, "bound", None, extra=(permitted("c.test"),), **times())
    endpoint.shows(bound.svid(), bound.issuer)
    assert (await refused(fetcher, bound.federation(endpoint.url), bound.bundle())).reason is Reason.ENDPOINT_UNTRUSTED


# --- redirects


@pytest.mark.spec("FED-17", "FED-18", "FED-19")
async def test_a_redirect_to_a_good_endpoint_is_followed(
    fetcher: BundleFetcher, either: Federation, endpoint: Endpoint
) -> None:
    endpoint.answers(FOREIGN.bundle(), "/moved")
    host = either.endpoint_url.split("/")[2]
    for status in ("302 Found", "307 Temporary Redirect", "301 Moved Permanently", "308 Permanent Redirect"):
        for target in ("/moved", f"https://{host}/moved"):
            endpoint.server.answers["/"] = leads_to(target, status)
            assert await fetcher(either, FOREIGN.bundle()) == FOREIGN.bundle().to_json()


@pytest.mark.spec("FED-21")
async def test_where_one_led_is_forgotten(fetcher: BundleFetcher, either: Federation, endpoint: Endpoint) -> None:
    endpoint.answers(FOREIGN.bundle(), "/moved")
    endpoint.server.answers["/"] = leads_to("/moved", "301 Moved Permanently")
    for _ in range(2):
        await fetcher(either, FOREIGN.bundle())
    assert endpoint.server.paths == ["/", "/moved"] * 2


@pytest.mark.spec("FED-07", "FED-08", "FED-17", "FED-19")
@pytest.mark.parametrize(
    "location",
    [
        "http://{host}/",
        "https://me:secret@{host}/",
        "https://me@{host}/",
        "file:///etc/passwd",
        "//me@{host}/",
        "https://",
        "",
    ],
)
async def test_a_redirect_to_what_is_no_endpoint_is_refused(
    fetcher: BundleFetcher, either: Federation, endpoint: Endpoint, location: str
) -> None:
    endpoint.server.answers["/away"] = leads_to(location.format(host=either.endpoint_url.split("/")[2]))
    refusal = await refused(fetcher, replace(either, endpoint_url=f"{either.endpoint_url}away"))
    assert refusal.reason is Reason.ENDPOINT_UNTRUSTED, refusal
    assert "secret" not in str(refusal)
    assert set(endpoint.server.paths) == {"/away"}


@pytest.mark.spec("FED-19")
async def test_not_more_than_three_are_followed(fetcher: BundleFetcher, either: Federation, endpoint: Endpoint) -> None:
    endpoint.server.answers["/"] = leads_to("/")
    refusal = await refused(fetcher, either)
    assert (refusal.reason, endpoint.server.paths) == (Reason.ENDPOINT_UNTRUSTED, ["/"] * 4)


@pytest.mark.spec("FED-17", "FED-20")
async def test_at_the_target_the_same_is_checked(
    fetcher: BundleFetcher, either: Federation, endpoint: Endpoint, ca: WebCa
) -> None:
    async with endpoint_of(FOREIGN) as target:
        url = either.endpoint_url.replace(str(endpoint.server.port), str(target.server.port))
        endpoint.server.answers["/"] = leads_to(url, "307 Temporary Redirect")
        is_web = either.profile is Profile.HTTPS_WEB
        if is_web:
            target.shows(ca.certificate(HOST))
        assert await fetcher(either, FOREIGN.bundle()) == FOREIGN.bundle().to_json()
        if is_web:
            target.shows(ca.certificate("other.b.test"))
        else:
            target.shows(FOREIGN.svid("/other"), FOREIGN.issuer)
        assert (await refused(fetcher, either)).reason is Reason.ENDPOINT_UNTRUSTED


# --- what it answers


@pytest.mark.parametrize(
    ("answer", "reason", "words"),
    [
        (says(b"gone", status="404 Not Found"), Reason.ENDPOINT_BAD_ANSWER, "answered 404"),
        (says(b"oops", status="500 Oops"), Reason.ENDPOINT_BAD_ANSWER, "answered 500"),
        (says(b"{}", status="201 Created"), Reason.ENDPOINT_BAD_ANSWER, "answered 201"),
        (says(b" " * (10 << 20)), Reason.ENDPOINT_BAD_ANSWER, "longer than 1048576 bytes"),
        (
            says(gzip.compress(b" " * (100 << 20)), headers={"content-encoding": "gzip"}),
            Reason.ENDPOINT_BAD_ANSWER,
            "packed its answer",
        ),
        (says(b"{}", headers={"content-length": "9999"}), Reason.ENDPOINT_UNREACHABLE, "good HTTP"),
        (says(b"{}", headers={"broken header": "x"}), Reason.ENDPOINT_UNREACHABLE, "good HTTP"),
    ],
)
async def test_what_is_no_document(
    fetcher: BundleFetcher, either: Federation, endpoint: Endpoint, answer: Any, reason: Reason, words: str
) -> None:
    endpoint.server.answers["/"] = answer
    refusal = await refused(fetcher, either)
    assert refusal.reason is reason, refusal
    assert words in refusal.message


async def test_of_a_flood_little_is_read(fetcher: BundleFetcher, either: Federation, endpoint: Endpoint) -> None:
    sent = 0

    async def floods(writer: asyncio.StreamWriter) -> None:
        nonlocal sent
        writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
        for _ in range(800):
            writer.write(b" " * 65536)
            await writer.drain()
            sent += 65536

    endpoint.server.answers["/"] = floods
    assert (await refused(fetcher, either)).reason is Reason.ENDPOINT_BAD_ANSWER
    assert sent < MAX_DOCUMENT_BYTES + (20 << 20)  # what lies in buffers on the way was sent, the rest never


@pytest.mark.parametrize("answer", [keeps_silent, drips(0.01)])
async def test_the_whole_answer_has_to_come_in_time(
    either: Federation, endpoint: Endpoint, ca: WebCa, tmp_path: Path, answer: Any
) -> None:
    (tmp_path / "web-ca.pem").write_bytes(ca.pem)
    trust = WebTrust(ca_file=tmp_path / "web-ca.pem", clock=SystemClock())
    hasty = BundleFetcher(web=trust, clock=SystemClock(), look_up=loopback, patience=0.5)
    endpoint.server.answers["/"] = answer
    refusal = await refused(hasty, either)
    assert refusal.reason is Reason.ENDPOINT_UNREACHABLE
    assert "no whole answer within 0.5 s" in refusal.message


async def test_where_nobody_listens(fetcher: BundleFetcher, spiffe: Federation) -> None:
    refusal = await refused(fetcher, replace(spiffe, endpoint_url="https://127.0.0.1:1/bundle?token=secret"))
    assert refusal.reason is Reason.ENDPOINT_UNREACHABLE
    assert "secret" not in str(refusal)


async def test_where_no_tls_is_spoken(fetcher: BundleFetcher, spiffe: Federation) -> None:
    async def hangs_up(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\n\r\n{}")
        writer.close()

    server = await asyncio.start_server(hangs_up, "127.0.0.1", 0)
    async with server:
        url = f"https://127.0.0.1:{server.sockets[0].getsockname()[1]}/"
        assert (await refused(fetcher, replace(spiffe, endpoint_url=url))).reason is Reason.ENDPOINT_UNREACHABLE


async def test_credentials_of_clouds_are_not_reached(fetcher: BundleFetcher, spiffe: Federation) -> None:
    refusal = await refused(fetcher, replace(spiffe, endpoint_url="https://169.254.169.254/latest"))
    assert refusal.reason is Reason.ADDRESS_REFUSED

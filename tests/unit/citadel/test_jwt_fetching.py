"""How issuers' keys are fetched: over real TLS, from addresses that were judged, with limits of time and size."""

from __future__ import annotations

import asyncio
import gzip
import json
import ssl
from collections.abc import AsyncIterator, Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import timedelta
from ipaddress import ip_address
from pathlib import Path
from typing import Any, Final

import pytest

from citadel.errors import CitadelError, Reason
from citadel.jwt.fetching import DISCOVERY_PATH, HttpKeyFetcher
from citadel.jwt.jwks import MAX_DOCUMENT_BYTES
from citadel.jwt.key_ring import IssuerKeyRing
from citadel.jwt.keys import Answer, KeySource
from citadel.jwt.settings import JwtRule
from citadel.jwt.validator import EndUserValidator
from tests.clock import FakeClock
from tests.end_users import SigningKey, bearer, jwks_bytes
from tests.issuer_server import IssuerServer, drips, issuer_server, keeps_silent, leads_to, says
from tests.strangers import WebCa, put

KEY: Final = SigningKey.p256()
KEYS: Final = jwks_bytes(KEY)
LOOPBACK: Final = ("127.0.0.1",)


class FakeDns:
    """Fulfils `LookUp`: each look takes the next answer for a name, and the last one again and again.

    Addresses are their own answer, as in every resolver; other names there are none.
    """

    def __init__(self, **names: Sequence[Sequence[str]]) -> None:
        self._names = {name.replace("_", "."): list(answers) for name, answers in names.items()}
        self.looks: list[str] = []

    def __call__(self, host: str, _port: int) -> Sequence[str]:
        self.looks.append(host)
        if host not in self._names:
            with suppress(ValueError):
                return [str(ip_address(host))]
            raise OSError(f"there is no {host}")
        answers = self._names[host]
        return answers.pop(0) if len(answers) > 1 else answers[0]


@pytest.fixture(scope="module")
def ca() -> WebCa:
    return WebCa()


@pytest.fixture
def ca_file(ca: WebCa, tmp_path: Path) -> Path:
    path = tmp_path / "ca.pem"
    path.write_bytes(ca.pem)
    return path


@pytest.fixture
async def issuer(ca: WebCa, tmp_path: Path) -> AsyncIterator[IssuerServer]:
    """Called issuer.test, and nothing else, by its certificate."""
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(*put(tmp_path, ca.certificate("issuer.test")))
    async with issuer_server(tls) as server:
        server.answers["/keys"] = says(KEYS)
        yield server


@pytest.fixture
def source(issuer: IssuerServer, ca_file: Path) -> KeySource:
    return KeySource(
        issuer=f"https://issuer.test:{issuer.port}",
        url=f"https://issuer.test:{issuer.port}/keys",
        timeout=timedelta(seconds=20),
        allow_private=True,
        ca_file=ca_file,
    )


async def fetched(source: KeySource, dns: FakeDns | None = None) -> Answer:
    return await HttpKeyFetcher(look_up=dns or FakeDns(issuer_test=[LOOPBACK]))(source)


async def refused(source: KeySource, dns: FakeDns | None = None) -> CitadelError:
    with pytest.raises(CitadelError) as refusal:
        await fetched(source, dns)
    return refusal.value


def at(source: KeySource, path: str) -> KeySource:
    return replace(source, url=source.issuer + path)


async def test_keys_come_over_tls_with_the_name_of_the_issuer(issuer: IssuerServer, source: KeySource) -> None:
    answer = await fetched(source)
    assert [each.key for each in answer.keys.keys] == [KEY.key.public_key()]
    (asked,) = issuer.asked
    assert (asked.name, asked.host, asked.path) == ("issuer.test", f"issuer.test:{issuer.port}", "/keys")
    assert asked.headers["accept-encoding"] == "identity"


@pytest.mark.parametrize(
    ("header", "max_age"),
    [
        (None, None),
        ("public, max-age=600", timedelta(minutes=10)),
        ("Max-Age=600", timedelta(minutes=10)),
        ("max-age=600, no-store", timedelta(0)),
        ("no-cache", timedelta(0)),
        ("max-age=-1", None),
        ("max-age=soon", None),
        ("max-age=99999999999999999999", None),
    ],
)
async def test_for_how_long_keys_may_be_kept(
    issuer: IssuerServer, source: KeySource, header: str | None, max_age: timedelta | None
) -> None:
    issuer.answers["/keys"] = says(KEYS, headers={"Cache-Control": header} if header else {})
    assert (await fetched(source)).max_age == max_age


class TestTls:
    async def test_a_certificate_of_another_name_is_refused(self, issuer: IssuerServer, source: KeySource) -> None:
        other = replace(source, url=f"https://other.test:{issuer.port}/keys")
        refusal = await refused(other, FakeDns(other_test=[LOOPBACK]))
        assert refusal.reason is Reason.JWKS_UNAVAILABLE
        assert "certificate" in refusal.message
        by_address = replace(source, url=f"https://127.0.0.1:{issuer.port}/keys")
        assert "certificate" in (await refused(by_address)).message
        assert issuer.asked == []

    async def test_an_authority_that_is_not_trusted_is_refused(self, issuer: IssuerServer, source: KeySource) -> None:
        assert "certificate" in (await refused(replace(source, ca_file=None))).message
        assert issuer.asked == []

    @pytest.mark.parametrize("content", [None, b"", b"no PEM"])
    async def test_a_ca_file_that_is_none_is_named(
        self, source: KeySource, tmp_path: Path, content: bytes | None
    ) -> None:
        path = tmp_path / "broken.pem"
        if content is not None:
            path.write_bytes(content)
        refusal = await refused(replace(source, ca_file=path))
        assert refusal.reason is Reason.JWKS_UNAVAILABLE
        assert "broken.pem" in refusal.message


class TestAddresses:
    async def test_without_leave_no_private_address_is_connected_to(
        self, issuer: IssuerServer, source: KeySource
    ) -> None:
        refusal = await refused(replace(source, allow_private=False))
        assert refusal.reason is Reason.ADDRESS_REFUSED
        assert issuer.connections == 0

    async def test_one_bad_address_among_good_ones_is_enough(self, issuer: IssuerServer, source: KeySource) -> None:
        refusal = await refused(source, FakeDns(issuer_test=[["127.0.0.1", "169.254.169.254"]]))
        assert refusal.reason is Reason.ADDRESS_REFUSED
        assert issuer.connections == 0

    async def test_a_name_is_looked_up_once_and_that_answer_is_used(
        self, issuer: IssuerServer, source: KeySource
    ) -> None:
        dns = FakeDns(issuer_test=[LOOPBACK, ["169.254.169.254"]])
        await fetched(source, dns)
        assert dns.looks == ["issuer.test"]
        assert issuer.connections == 1

    async def test_an_address_that_does_not_answer_leads_to_the_next(self, source: KeySource) -> None:
        await fetched(source, FakeDns(issuer_test=[["127.0.0.2", "::1", "127.0.0.1"]]))

    @pytest.mark.parametrize(
        "host",
        ["169.254.169.254", "[fd00:ec2::254]", "[::ffff:169.254.169.254]", "2852039166", "0xa9fea9fe", "0"],
    )
    async def test_an_address_may_be_written_in_any_way(self, source: KeySource, host: str) -> None:
        with pytest.raises(CitadelError) as refusal:
            await HttpKeyFetcher()(replace(source, url=f"http://{host}/latest"))
        assert refusal.value.reason is Reason.ADDRESS_REFUSED

    async def test_the_systems_own_look_is_judged_too(self, source: KeySource, issuer: IssuerServer) -> None:
        local = replace(source, url=f"https://localhost:{issuer.port}/keys", allow_private=False)
        with pytest.raises(CitadelError) as refusal:
            await HttpKeyFetcher()(local)
        assert refusal.value.reason is Reason.ADDRESS_REFUSED

    @pytest.mark.parametrize("answer", [OSError("no such name"), UnicodeError("label too long")])
    async def test_a_name_that_is_none(self, source: KeySource, answer: Exception) -> None:
        def look_up(_host: str, _port: int) -> Sequence[str]:
            raise answer

        with pytest.raises(CitadelError, match="cannot be resolved") as refusal:
            await HttpKeyFetcher(look_up=look_up)(source)
        assert refusal.value.reason is Reason.JWKS_UNAVAILABLE

    async def test_no_proxy_of_the_environment_is_asked(
        self, source: KeySource, issuer: IssuerServer, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        for name in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY"):
            monkeypatch.setenv(name, "http://127.0.0.1:1")
        await fetched(source)
        assert issuer.connections == 1


class TestRedirects:
    async def test_some_are_followed(self, issuer: IssuerServer, source: KeySource) -> None:
        issuer.answers |= {
            "/1": leads_to("/2"),
            "/2": leads_to(f"https://issuer.test:{issuer.port}/3", "308 Permanent Redirect"),
            "/3": leads_to("keys", "303 See Other"),
        }
        assert (await fetched(at(source, "/1"))).keys.keys
        assert issuer.paths == ["/1", "/2", "/3", "/keys"]

    async def test_not_more_than_three(self, issuer: IssuerServer, source: KeySource) -> None:
        issuer.answers["/again"] = leads_to("/again")
        refusal = await refused(at(source, "/again"))
        assert refusal.reason is Reason.JWKS_UNAVAILABLE
        assert "redirects" in refusal.message
        assert issuer.paths == ["/again"] * 4

    @pytest.mark.parametrize(
        ("location", "reason"),
        [
            ("https://169.254.169.254/latest/meta-data", Reason.ADDRESS_REFUSED),
            ("https://metadata.test/", Reason.ADDRESS_REFUSED),
            ("http://issuer.test/keys", Reason.JWKS_UNAVAILABLE),
            ("http://169.254.169.254/", Reason.JWKS_UNAVAILABLE),
            ("file:///etc/passwd", Reason.JWKS_UNAVAILABLE),
            ("gopher://issuer.test/", Reason.JWKS_UNAVAILABLE),
            ("https://[", Reason.JWKS_UNAVAILABLE),
            ("https://[::1", Reason.JWKS_UNAVAILABLE),
            ("https://", Reason.JWKS_UNAVAILABLE),
            ("https://user@\x80/", Reason.JWKS_UNAVAILABLE),
            ("", Reason.JWKS_UNAVAILABLE),
        ],
    )
    async def test_each_target_is_judged_as_the_first_one(
        self, issuer: IssuerServer, source: KeySource, location: str, reason: Reason
    ) -> None:
        issuer.answers["/away"] = leads_to(location)
        dns = FakeDns(issuer_test=[LOOPBACK], metadata_test=[["169.254.169.254"]])
        refusal = await refused(at(source, "/away"), dns)
        assert refusal.reason is reason, refusal.message
        assert set(issuer.paths) == {"/away"}

    async def test_the_name_may_lead_elsewhere_at_the_second_look(
        self, issuer: IssuerServer, source: KeySource
    ) -> None:
        issuer.answers["/away"] = leads_to("/keys")
        refusal = await refused(at(source, "/away"), FakeDns(issuer_test=[LOOPBACK, ["169.254.169.254"]]))
        assert refusal.reason is Reason.ADDRESS_REFUSED
        assert issuer.paths == ["/away"]


class TestAnswers:
    @pytest.mark.parametrize(
        ("answer", "reason", "why"),
        [
            (says(b"not found", status="404 Not Found"), Reason.JWKS_UNAVAILABLE, "answered 404"),
            (says(KEYS, status="500 Oops"), Reason.JWKS_UNAVAILABLE, "answered 500"),
            (says(b"", status="304 Not Modified"), Reason.JWKS_UNAVAILABLE, "answered 304"),
            (says(b"<html>", headers={"content-type": "text/html"}), Reason.JWKS_MALFORMED, "not JSON"),
            (says(b'{"keys":[]}'), Reason.JWKS_MALFORMED, "no key can be used"),
            (says(b" " * (MAX_DOCUMENT_BYTES + 1)), Reason.JWKS_MALFORMED, "longer than"),
            (
                says(gzip.compress(KEYS), headers={"content-encoding": "gzip"}),
                Reason.JWKS_MALFORMED,
                "packed its answer",
            ),
            (says(KEYS, headers={"content-length": "9999"}), Reason.JWKS_UNAVAILABLE, "does not answer in good HTTP"),
            (says(KEYS, headers={"broken header": "x"}), Reason.JWKS_UNAVAILABLE, "does not answer in good HTTP"),
        ],
    )
    async def test_what_is_no_key_set(
        self, issuer: IssuerServer, source: KeySource, answer: Any, reason: Reason, why: str
    ) -> None:
        issuer.answers["/keys"] = answer
        refusal = await refused(source)
        assert refusal.reason is reason, refusal.message
        assert why in refusal.message

    async def test_of_fifty_megabytes_one_is_read(self, issuer: IssuerServer, source: KeySource) -> None:
        sent = 0

        async def floods(writer: asyncio.StreamWriter) -> None:
            nonlocal sent
            writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
            for _ in range(800):
                writer.write(b" " * 65536)
                await writer.drain()
                sent += 65536

        issuer.answers["/keys"] = floods
        assert (await refused(source)).reason is Reason.JWKS_MALFORMED
        assert sent < 20 << 20  # what lies in buffers on the way was sent, the rest never

    @pytest.mark.parametrize("answer", [keeps_silent, drips(0.01)])
    async def test_the_whole_answer_has_to_come_in_time(
        self, issuer: IssuerServer, source: KeySource, answer: Any
    ) -> None:
        issuer.answers["/keys"] = answer
        refusal = await refused(replace(source, timeout=timedelta(milliseconds=300)))
        assert refusal.reason is Reason.JWKS_UNAVAILABLE
        assert refusal.message == f"{source.url}: no whole answer within 0.3 s"

    async def test_where_nobody_listens(self, source: KeySource) -> None:
        refusal = await refused(replace(source, url="https://me:secret@issuer.test:1/keys?token=secret"))
        assert refusal.reason is Reason.JWKS_UNAVAILABLE
        assert refusal.message.startswith("https://issuer.test:1/keys: cannot be connected to: ")
        assert "secret" not in refusal.message

    async def test_where_it_was_led_to_is_named(self, issuer: IssuerServer, source: KeySource) -> None:
        issuer.answers["/away"] = leads_to("/gone")
        refusal = await refused(at(source, "/away"))
        assert refusal.message == f"{source.issuer}/gone answered 404"


class TestDiscovery:
    async def test_the_document_leads_to_the_keys(self, issuer: IssuerServer, source: KeySource) -> None:
        document = {"issuer": source.issuer, "jwks_uri": source.url}
        issuer.answers[DISCOVERY_PATH] = says(json.dumps(document).encode())
        assert (await fetched(replace(source, url=""))).keys.keys
        assert issuer.paths == [DISCOVERY_PATH, "/keys"]

    async def test_an_issuer_with_a_path(self, issuer: IssuerServer, source: KeySource) -> None:
        for tenant in ("/tenant", "/slash/"):
            name = source.issuer + tenant
            document = {"issuer": name, "jwks_uri": source.url}
            issuer.answers[tenant.rstrip("/") + DISCOVERY_PATH] = says(json.dumps(document).encode())
            assert (await fetched(replace(source, issuer=name, url=""))).keys.keys

    @pytest.mark.parametrize(
        ("change", "reason", "why"),
        [
            ({"issuer": "https://evil.test"}, Reason.JWKS_MALFORMED, "another issuer, 'https://evil.test'"),
            ({"issuer": None}, Reason.JWKS_MALFORMED, "another issuer"),
            ({"jwks_uri": None}, Reason.JWKS_MALFORMED, "no jwks_uri"),
            ({"jwks_uri": "keys"}, Reason.JWKS_UNAVAILABLE, "not https"),
            ({"jwks_uri": "http://issuer.test/keys"}, Reason.JWKS_UNAVAILABLE, "not https"),
            ({"jwks_uri": "https://169.254.169.254/"}, Reason.ADDRESS_REFUSED, "never asked"),
        ],
    )
    async def test_what_it_must_not_say(
        self, issuer: IssuerServer, source: KeySource, change: dict[str, Any], reason: Reason, why: str
    ) -> None:
        document = {"issuer": source.issuer, "jwks_uri": source.url, **change}
        issuer.answers[DISCOVERY_PATH] = says(json.dumps(document).encode())
        refusal = await refused(replace(source, url=""))
        assert refusal.reason is reason, refusal.message
        assert why in refusal.message
        assert "/keys" not in issuer.paths


class TestWithoutTls:
    async def test_http_is_taken_where_private_addresses_are(self) -> None:
        async with issuer_server() as plain:
            plain.answers = {"/keys": says(KEYS), "/away": leads_to("/keys")}
            address = f"http://127.0.0.1:{plain.port}"
            source = KeySource(
                issuer=address, url=f"{address}/away", timeout=timedelta(seconds=20), allow_private=True, ca_file=None
            )
            assert (await fetched(source)).keys.keys
            refusal = await refused(replace(source, allow_private=False))
            assert (refusal.reason, plain.paths) == (Reason.JWKS_UNAVAILABLE, ["/away", "/keys"])

    @pytest.mark.parametrize("addresses", [["8.8.8.8"], ["127.0.0.1", "8.8.8.8"], ["2001:4860:4860::8888"]])
    async def test_from_a_public_address_nothing_is_taken_in_plain_text(self, addresses: Sequence[str]) -> None:
        async with issuer_server() as plain:
            plain.answers = {"/away": leads_to(f"http://elsewhere.test:{plain.port}/keys"), "/keys": says(KEYS)}
            dns = FakeDns(issuer_test=[LOOPBACK], elsewhere_test=[addresses])
            for url in ("http://elsewhere.test:{}/keys", "http://issuer.test:{}/away"):
                source = KeySource(
                    issuer="x",
                    url=url.format(plain.port),
                    timeout=timedelta(seconds=20),
                    allow_private=True,
                    ca_file=None,
                )
                refusal = await refused(source, dns)
                assert (refusal.reason, "only https" in refusal.message) == (Reason.ADDRESS_REFUSED, True)
            assert plain.paths == ["/away"]


async def test_a_token_is_believed_by_keys_that_were_fetched(
    issuer: IssuerServer, source: KeySource, ca_file: Path
) -> None:
    document = {"issuer": source.issuer, "jwks_uri": source.url}
    issuer.answers[DISCOVERY_PATH] = says(json.dumps(document).encode())
    rule = JwtRule.model_validate({"issuer": source.issuer, "allowPrivateAddresses": True, "caFile": ca_file})
    ring = IssuerKeyRing(
        fetch=HttpKeyFetcher(look_up=FakeDns(issuer_test=[LOOPBACK])), clock=FakeClock(), jitter=lambda: 0.5
    )
    try:
        validator = EndUserValidator([rule], keys=ring, clock=FakeClock())
        verified = await validator.check(bearer(KEY.token(iss=source.issuer)))
        assert verified is not None
        assert verified.user.subject == "jason"
    finally:
        await ring.close()

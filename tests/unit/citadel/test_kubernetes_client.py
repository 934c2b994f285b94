"""The client of the API server: what it makes of answers that are bad, late or none, and whom it trusts."""

from __future__ import annotations

import asyncio
import gzip
import json
import subprocess
import sys
import tracemalloc
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any, Final

import pytest
import yaml

from citadel.errors import CitadelError, InvalidArgument, Reason, Unavailable
from citadel.kubernetes.client import KubernetesClient, Measure, Patience, kubernetes_client
from citadel.kubernetes.ports import ApiUnavailable, WatchEvent, WatchExpired
from citadel.kubernetes.settings import ApiServerSettings
from tests.chart import ROOT
from tests.kube_script import HOLD, ScriptedApi, answer, event, scripted_api, thing, watch
from tests.strangers import WebCa

THINGS: Final = "/api/v1/things"
HASTY: Final = Patience(connect=5, answer=0.3, silence=0.3)


@asynccontextmanager
async def connected(
    path: Path,
    patience: Patience = Patience(),  # noqa: B008 - frozen
    measure: Measure = Measure(),  # noqa: B008 - frozen
) -> AsyncIterator[KubernetesClient]:
    client = await kubernetes_client(ApiServerSettings(kubeconfig=path), patience=patience, measure=measure)
    try:
        yield client
    finally:
        await client.close()


async def seen_in(api: ScriptedApi, patience: Patience = HASTY) -> list[WatchEvent]:
    """Every event of one watch, to its end."""
    async with connected(api.kubeconfig(), patience) as client, client.watch(THINGS, resource_version="7") as events:
        return [each async for each in events]


async def test_a_list_is_read_in_pages_without_what_nobody_needs(tmp_path: Path) -> None:
    managed = thing("a", 1)
    managed["metadata"]["managedFields"] = [{"manager": "kubectl"}]
    first = answer(200, {"items": [managed], "metadata": {"continue": "more", "resourceVersion": "8"}})
    second = answer(200, {"items": [thing("b", 2), "nonsense", None], "metadata": {"resourceVersion": "8"}})
    async with scripted_api(tmp_path, first, second) as api, connected(api.kubeconfig()) as client:
        listed = await client.list(THINGS, labels="app=web", fields="spec.nodeName=n1")
        assert listed.items == (thing("a", 1), thing("b", 2))
        assert listed.resource_version == "8"
        assert all("fieldSelector=spec.nodeName%3Dn1" in path for path in api.paths)
        assert "continue=more" in api.paths[1]


@pytest.mark.parametrize(
    "text",
    [
        '{"items":[%s,%s],"metadata":{"resourceVersion":"8"}}',
        '{"metadata":{"resourceVersion":"8"},"items":[%s,%s]}\n',
        '{"metadata":{"resourceVersion":"8"}, "items" : [ %s , %s ] }',
        '{"metadata":{"resourceVersion":"8"},"items":[ %s, %s]}',
        '{"items":[null,%s,7,%s,[],"a"],"metadata":{"resourceVersion":"8"}}',
    ],
)
async def test_a_list_may_be_written_in_any_form_of_json(tmp_path: Path, text: str) -> None:
    body = (text % (json.dumps(thing("a", 1, items='"items":[')), json.dumps(thing("b", 2)))).encode()
    response = [b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n" + body]
    async with scripted_api(tmp_path, response) as api, connected(api.kubeconfig()) as client:
        listed = await client.list(THINGS, each=lambda each: each["metadata"]["name"])
    assert (listed.items, listed.resource_version) == (("a", "b"), "8")


async def test_a_list_without_objects_is_empty_and_no_list_is_none(tmp_path: Path) -> None:
    """Taken for an empty one it would take everything away."""
    async with scripted_api(tmp_path) as api, connected(api.kubeconfig()) as client:
        for empty in ({"items": []}, {"items": None}):
            api.last = answer(200, {**empty, "metadata": {}})
            assert (await client.list(THINGS)).items == ()
        for odd in ({}, {"metadata": {}}, {"items": {}}, {"items": "a"}, {"items": 7}):
            api.last = answer(200, odd)
            with pytest.raises(ApiUnavailable):
                await client.list(THINGS)


async def test_a_list_of_five_thousand_whose_next_page_is_gone_is_read_anew_as_a_whole(tmp_path: Path) -> None:
    things = [thing(f"t{number}", number) for number in range(5000)]
    pages = [
        answer(200, {"items": things[at : at + 500], "metadata": {"continue": f"from {at}", "resourceVersion": "8"}})
        for at in range(0, 2500, 500)
    ]
    gone = answer(410, {"message": "the provided continue parameter is too old", "code": 410})
    whole = answer(200, {"items": things, "metadata": {"resourceVersion": "9"}})
    async with scripted_api(tmp_path, *pages, gone, whole) as api, connected(api.kubeconfig()) as client:
        listed = await client.list(THINGS)
        assert (list(listed.items), listed.resource_version) == (things, "9")
        assert ["limit=500" in path for path in api.paths] == [True] * 6 + [False]


@pytest.mark.parametrize(
    ("response", "wanted", "reason"),
    [
        (answer(500, {"message": "boom"}), ApiUnavailable, Reason.KUBERNETES_UNAVAILABLE),
        (answer(401, {"message": "who?"}), Unavailable, Reason.KUBERNETES_LOGIN_REFUSED),
        (answer(403, {"message": "no"}), Unavailable, Reason.KUBERNETES_DENIED),
        (answer(422, {"message": "odd"}), Unavailable, Reason.KUBERNETES_REFUSED),
        (answer(410, {"message": "old"}), WatchExpired, Reason.KUBERNETES_UNAVAILABLE),
        ([b"HTTP/1.1 200 OK\r\n\r\n<html>a proxy</html>"], ApiUnavailable, Reason.KUBERNETES_UNAVAILABLE),
        ([b"HTTP/1.1 200 OK\r\n\r\n[]"], ApiUnavailable, Reason.KUBERNETES_UNAVAILABLE),
        ([b"HTTP/1.1 200 OK\r\n\r\n" + b"[" * 200_000], ApiUnavailable, Reason.KUBERNETES_UNAVAILABLE),
        ([b'HTTP/1.1 200 OK\r\n\r\n{"items":[' + b"[" * 200_000], ApiUnavailable, Reason.KUBERNETES_UNAVAILABLE),
        ([b"HTTP/1.1 503 Away\r\n\r\n" + b"[" * 200_000], ApiUnavailable, Reason.KUBERNETES_UNAVAILABLE),
        ([b"HTTP/1.1 503 Away\r\n\r\n<html>a proxy</html>"], ApiUnavailable, Reason.KUBERNETES_UNAVAILABLE),
        ([b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n{"], ApiUnavailable, Reason.KUBERNETES_UNAVAILABLE),
        ([b"no HTTP at all\r\n\r\n"], ApiUnavailable, Reason.KUBERNETES_UNAVAILABLE),
        ([b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n{", HOLD], ApiUnavailable, Reason.KUBERNETES_UNAVAILABLE),
        ([HOLD], ApiUnavailable, Reason.KUBERNETES_UNAVAILABLE),
    ],
)
async def test_every_bad_answer_is_a_refusal_that_says_who_can_mend_it(
    tmp_path: Path, response: list[bytes], wanted: type[CitadelError], reason: Reason
) -> None:
    async with scripted_api(tmp_path) as api, connected(api.kubeconfig(), HASTY) as client:
        api.last = response
        for call in (client.get(THINGS), client.list(THINGS)):
            with pytest.raises(CitadelError) as refused:
                await call
            assert (type(refused.value), refused.value.reason) == (wanted, reason)


def packed(text: bytes) -> list[bytes]:
    return [b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nConnection: close\r\n\r\n" + gzip.compress(text)]


@pytest.mark.parametrize(
    "response",
    [
        answer(200, {"metadata": {"name": "x" * 1000}}),
        answer(500, {"message": "x" * 1000}),
        packed(b'{"metadata":{"name":"%s"}}' % (b"x" * 1000)),
    ],
)
async def test_an_answer_that_is_longer_than_any_object_is_not_read_to_its_end(
    tmp_path: Path, response: list[bytes]
) -> None:
    async with (
        scripted_api(tmp_path) as api,
        connected(api.kubeconfig(), measure=Measure(answer=1000, page=1000)) as client,
    ):
        api.last = response
        for call in (client.get(THINGS), client.create(THINGS, {}), client.list(THINGS)):
            with pytest.raises(ApiUnavailable, match="more than 1000 bytes"):
                await call


@pytest.mark.parametrize("fields", ["", "metadata.name=roots"])
async def test_a_list_of_large_objects_is_read_a_few_at_a_time(tmp_path: Path, fields: str) -> None:
    """Whoever may write them would keep all others from being known."""
    large = [{**thing(f"t{number}", number), "data": "x" * 150} for number in range(6)]
    pages = [
        answer(200, {"items": large, "metadata": {"resourceVersion": "8"}}),
        answer(200, {"items": large[:5], "metadata": {"continue": "more", "resourceVersion": "8"}}),
        answer(200, {"items": large[5:], "metadata": {"resourceVersion": "8"}}),
    ]
    async with (
        scripted_api(tmp_path, *pages) as api,
        connected(api.kubeconfig(), measure=Measure(page=len(pages[0][0]) - 100)) as client,
    ):
        listed = await client.list(THINGS, fields=fields)
        assert list(listed.items) == large
        assert ["limit=5&" in f"{path}&" for path in api.paths] == [False, True, True]


async def test_large_objects_slow_down_the_list_of_all_others_by_a_page_of_them(tmp_path: Path) -> None:
    """A list of few at a time takes longer than its tokens live, and more calls than are made."""
    things = [thing(f"t{number}", number) for number in range(1500)]
    large = [{**each, "data": "x" * 1000} for each in things[500:1000]]
    found = [*things[:500], *large, *things[1000:]]

    def page(start: int, end: int) -> list[bytes]:
        return answer(200, {"items": found[start:end], "metadata": {"continue": f"from-{end}", "resourceVersion": "8"}})

    few = [page(at, at + 5) for at in range(500, 1000, 5)]
    last = answer(200, {"items": found[1000:], "metadata": {"resourceVersion": "8"}})
    async with (
        scripted_api(tmp_path, page(0, 500), page(500, 1000), *few, last) as api,
        connected(api.kubeconfig(), measure=Measure(page=200_000)) as client,
    ):
        listed = await client.list(THINGS)
    assert list(listed.items) == found
    assert ["limit=500" in path for path in api.paths] == [True, True, *[False] * 100, True]
    assert ["continue=from-500&" in f"{path}&" for path in api.paths] == [False, True, True, *[False] * 100]


async def test_objects_of_which_five_are_too_long_are_read_one_by_one(tmp_path: Path) -> None:
    things = [{**thing(f"t{number}", number), "data": "x" * (1000 if number < 5 else 1)} for number in range(12)]

    def page(start: int, end: int) -> list[bytes]:
        more = {"continue": f"from-{end}"} if end < len(things) else {}
        return answer(200, {"items": things[start:end], "metadata": {**more, "resourceVersion": "8"}})

    spans = [(0, 12), (0, 5), *((at, at + 1) for at in range(5)), (5, 10), (10, 12)]
    async with (
        scripted_api(tmp_path, *(page(*span) for span in spans)) as api,
        connected(api.kubeconfig(), measure=Measure(page=2000)) as client,
    ):
        listed = await client.list(THINGS)
    assert list(listed.items) == things
    limits = [path.partition("limit=")[2].partition("&")[0] for path in api.paths]
    assert limits == ["500", "5", *["1"] * 5, "5", "5"]


async def test_three_of_the_largest_pages_at_once_leave_a_server_most_of_its_memory(tmp_path: Path) -> None:
    """One of a sixteenth is measured: an emoji makes each of its characters four bytes long."""
    limit = yaml.safe_load((ROOT / "deploy/helm/citadel/values.yaml").read_text())["server"]["resources"]["limits"]
    assert limit == {"memory": "1Gi"}
    things = [
        {**thing(f"t{number}", number), "data": "x" * (Measure().page // 64) + "\U0001f600"} for number in range(4)
    ]
    page = json.dumps({"items": things}, ensure_ascii=False, separators=(",", ":")).encode()
    async with scripted_api(tmp_path) as api, connected(api.kubeconfig()) as client:
        api.last = [b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n" + page]
        await client.get(THINGS)
        tracemalloc.start()
        try:
            await client.list(THINGS, each=lambda found: found["metadata"]["name"])
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
    assert 3 * 16 * peak < 2**30 / 2


async def test_a_whole_that_is_too_long_after_its_pages_were_gone_is_read_in_pages_again(tmp_path: Path) -> None:
    things = [thing(f"t{number}", number) for number in range(8)]
    gone = answer(410, {"message": "the provided continue parameter is too old", "code": 410})
    pages = [
        answer(200, {"items": things[at : at + 5], "metadata": {"continue": more, "resourceVersion": "9"}})
        for at, more in ((0, "more"), (5, ""))
    ]
    whole = answer(200, {"items": things, "metadata": {"resourceVersion": "9"}})
    async with (
        scripted_api(tmp_path, pages[0], gone, whole, *pages) as api,
        connected(api.kubeconfig(), measure=Measure(page=len(whole[0]) - 200)) as client,
    ):
        listed = await client.list(THINGS)
    assert list(listed.items) == things
    assert ["limit=" in path for path in api.paths] == [True, True, False, True, True]


@pytest.mark.parametrize(
    ("pages", "calls"),
    [
        ([answer(200, {"items": [], "metadata": {"continue": "again"}})] * 3, 2),
        ([answer(200, {"items": [], "metadata": {"continue": str(number)}}) for number in range(9)], 4),
        ([answer(200, {"items": [thing("a", 1)] * 3, "metadata": {"continue": str(n)}}) for n in range(9)], 2),
    ],
)
async def test_a_list_that_does_not_end_is_none(tmp_path: Path, pages: list[list[bytes]], calls: int) -> None:
    async with (
        scripted_api(tmp_path, *pages) as api,
        connected(api.kubeconfig(), measure=Measure(pages=4, objects=5)) as client,
    ):
        with pytest.raises(ApiUnavailable, match="does not end"):
            await client.list(THINGS)
        assert len(api.paths) == calls


@pytest.mark.parametrize(("said", "seconds"), [("7", 7), ("100000", 300), ("soon", None), ("-1", None)])
async def test_what_a_busy_api_server_asks_for_is_told(tmp_path: Path, said: str, seconds: int | None) -> None:
    busy = answer(429, {"message": "too many requests"}, **{"Retry-After": said})
    async with scripted_api(tmp_path, busy, busy) as api, connected(api.kubeconfig()) as client:
        with pytest.raises(ApiUnavailable) as called:
            await client.list(THINGS)
        with pytest.raises(ApiUnavailable) as watched:
            async with client.watch(THINGS, resource_version="1"):
                pass
    wanted = timedelta(seconds=seconds) if seconds is not None else None
    assert called.value.retry_after == watched.value.retry_after == wanted


async def test_a_watch_gives_what_is_told_and_ends_when_nothing_is_heard_any_more(tmp_path: Path) -> None:
    """A connection that nobody has ended and that nothing comes through: the next try shows whether it is so."""
    lines = [event("ADDED", "a", 8), event("BOOKMARK", "", 9), event("DELETED", "a", 10)]
    async with scripted_api(tmp_path, watch(*lines)) as api:
        assert [each.kind for each in await asyncio.wait_for(seen_in(api), 5)] == ["ADDED", "BOOKMARK", "DELETED"]


@pytest.mark.parametrize(
    ("line", "wanted"),
    [
        ({"type": "ERROR", "object": {"code": 410, "message": "too old"}}, WatchExpired),
        ({"type": "ERROR", "object": {"code": 500, "message": "boom"}}, ApiUnavailable),
        ({"type": "ERROR", "object": "boom"}, ApiUnavailable),
        ({"type": "ERROR", "object": {"code": "410"}}, ApiUnavailable),
        (b"{broken", ApiUnavailable),
        (b"[]", ApiUnavailable),
        (b'{"type": "' + b"a" * 5_000_000 + b'"}', WatchExpired),
    ],
    ids=["too old", "error", "error in words", "odd code", "broken", "a list", "too long"],
)
async def test_a_line_that_cannot_be_taken_ends_a_watch(tmp_path: Path, line: object, wanted: type) -> None:
    async with scripted_api(tmp_path, watch(event("ADDED", "a", 8), line, event("ADDED", "b", 9))) as api:
        with pytest.raises(Unavailable) as refused:
            await asyncio.wait_for(seen_in(api), 10)
    assert type(refused.value) is wanted


async def test_an_error_on_a_watch_says_when_to_come_again(tmp_path: Path) -> None:
    busy = {"type": "ERROR", "object": {"code": 429, "message": "busy", "details": {"retryAfterSeconds": 9}}}
    async with scripted_api(tmp_path, watch(busy)) as api:
        with pytest.raises(ApiUnavailable) as refused:
            await seen_in(api)
    assert refused.value.retry_after == timedelta(seconds=9)


async def test_a_watch_that_breaks_off_says_so(tmp_path: Path) -> None:
    broken = [b"HTTP/1.1 200 OK\r\nContent-Length: 9999\r\n\r\n"]
    async with scripted_api(tmp_path, broken) as api:
        with pytest.raises(ApiUnavailable, match="broke off"):
            await seen_in(api)


async def test_what_is_odd_in_an_event_is_left_to_who_reads_it(tmp_path: Path) -> None:
    odd = [{"type": "ADDED"}, {"object": {}}, {"type": "ADDED", "object": []}, {}]
    async with scripted_api(tmp_path, watch(*odd, then=None)) as api:
        assert [each.object for each in await seen_in(api)] == [{}] * 4


class TestTrust:
    async def test_a_certificate_of_somebody_else_is_no_api_server(self, tmp_path: Path) -> None:
        async with scripted_api(tmp_path) as api:
            (tmp_path / "other.pem").write_bytes(WebCa().pem)
            kubeconfig = api.kubeconfig(**{"certificate-authority": str(tmp_path / "other.pem")})
            async with connected(kubeconfig) as client:
                with pytest.raises(Unavailable) as refused:
                    await client.get(THINGS)
            assert refused.value.reason is Reason.KUBERNETES_UNTRUSTED
            assert not api.requests

    @pytest.mark.parametrize("variable", ["HTTPS_PROXY", "https_proxy", "ALL_PROXY", "HTTP_PROXY"])
    async def test_no_proxy_of_the_environment_is_asked(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, variable: str
    ) -> None:
        monkeypatch.setenv(variable, "http://127.0.0.1:9")
        async with scripted_api(tmp_path, answer(200, {})) as api, connected(api.kubeconfig()) as client:
            assert await client.get(THINGS) == {}

    async def test_no_roots_of_the_environment_are_trusted(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Without a CA of its own a kubeconfig means those of the system."""
        async with scripted_api(tmp_path) as api:
            kubeconfig = api.kubeconfig(**{"certificate-authority": None})
            monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "ca.pem"))
            async with connected(kubeconfig) as client:
                with pytest.raises(Unavailable) as refused:
                    await client.get(THINGS)
        assert refused.value.reason is Reason.KUBERNETES_UNTRUSTED

    @pytest.mark.parametrize(
        "cluster", [{"insecure-skip-tls-verify": True}, {"server": "http://127.0.0.1:8001"}, {"server": None}]
    )
    async def test_a_kubeconfig_that_gives_tokens_to_whoever_answers_is_refused(
        self, tmp_path: Path, cluster: dict[str, Any]
    ) -> None:
        async with scripted_api(tmp_path) as api:
            with pytest.raises(InvalidArgument) as refused:
                await kubernetes_client(ApiServerSettings(kubeconfig=api.kubeconfig(**cluster)))
        assert refused.value.reason is Reason.CONFIG_INVALID


async def test_a_client_leaves_nothing_open_at_the_end(tmp_path: Path) -> None:
    """Neither after a call, nor in the middle of a watch, although nobody answers its farewell."""
    async with scripted_api(tmp_path, answer(200, {}), watch(event("ADDED", "a", 8))) as api:
        with subprocess.Popen(
            [sys.executable, "-W", "always", "-c", _IN_A_PROCESS, api.kubeconfig()],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        ) as program:
            assert program.stdout is not None
            assert await asyncio.to_thread(program.stdout.readline) == b"ADDED\n"
            said, _ = program.communicate(b"\n", timeout=30)  # which holds up the server, that runs on this loop
    assert (program.returncode, said) == (0, b"")


_IN_A_PROCESS: Final = """
import asyncio, sys
from pathlib import Path
from citadel.kubernetes.client import kubernetes_client
from citadel.kubernetes.settings import ApiServerSettings

async def main():
    client = await kubernetes_client(ApiServerSettings(kubeconfig=Path(sys.argv[1])))
    await client.get("/api/v1/things")
    async with client.watch("/api/v1/things", resource_version="7") as events:
        async for event in events:
            print(event.kind, flush=True)
            sys.stdin.readline()
            break
    await client.close()

asyncio.run(main())
"""

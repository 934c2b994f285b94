"""DNS that keeps silent: it costs the keys that it was asked for, and nothing else of the agent."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import AsyncIterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import timedelta
from threading import Event
from typing import Final

import pytest

from citadel.errors import CitadelError, Reason
from citadel.jwt.fetching import HttpKeyFetcher
from citadel.jwt.keys import KeySource
from citadel.web.lookups import Lookups

HANGS: Final = "hangs.test"
SOURCE: Final = KeySource(
    issuer=f"https://{HANGS}",
    url=f"https://{HANGS}/keys",
    timeout=timedelta(seconds=60),
    allow_private=False,
    ca_file=None,
)
ENDS_MEANWHILE: Final = f"""
import asyncio, time
from citadel.web.lookups import Lookups

async def give_up():
    lookups = Lookups(lambda host, port: time.sleep(600))
    try:
        await asyncio.wait_for(lookups.addresses("asker", "{HANGS}", 443), 0.1)
    except TimeoutError:
        print("given up")

asyncio.run(give_up())
"""


class SilentDns:
    """Fulfils `LookUp`: of one name it says nothing before `answers` is set, of all others it says where they are."""

    def __init__(self) -> None:
        self.answers = Event()
        self.looks: list[str] = []

    def __call__(self, host: str, _port: int) -> Sequence[str]:
        self.looks.append(host)
        if host == HANGS:
            self.answers.wait()
        return ["192.0.2.1"]  # never asked for keys


@pytest.fixture
async def dns() -> AsyncIterator[SilentDns]:
    dns = SilentDns()
    yield dns
    dns.answers.set()


async def refusal(fetch: HttpKeyFetcher, source: KeySource) -> CitadelError:
    with pytest.raises(CitadelError) as refused:
        await fetch(source)
    return refused.value


async def looked_up(dns: SilentDns, times: int) -> None:
    async with asyncio.timeout(20):
        while len(dns.looks) < times:
            await asyncio.sleep(0.01)


@pytest.mark.invariant(5)
async def test_the_threads_that_certificates_are_renewed_in_stay_free(dns: SilentDns) -> None:
    asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(max_workers=2))
    fetch = HttpKeyFetcher(look_up=dns)
    fetching = [asyncio.create_task(refusal(fetch, replace(SOURCE, issuer=f"https://{n}.test"))) for n in range(4)]
    await looked_up(dns, 4)
    async with asyncio.timeout(20):
        await asyncio.to_thread(int)
    dns.answers.set()
    assert {each.reason for each in await asyncio.gather(*fetching)} == {Reason.ADDRESS_REFUSED}


async def test_while_a_look_up_hangs_no_other_one_begins_for_the_same_issuer(dns: SilentDns) -> None:
    fetch = HttpKeyFetcher(look_up=dns)
    given_up = asyncio.create_task(fetch(SOURCE))
    await looked_up(dns, 1)
    given_up.cancel()
    await asyncio.wait([given_up])
    for _ in range(5):
        again = await refusal(fetch, SOURCE)
        assert (again.reason, "has not been answered yet" in again.message) == (Reason.JWKS_UNAVAILABLE, True)
    elsewhere = replace(SOURCE, issuer="https://other.test", url="https://other.test/keys")
    assert (await refusal(fetch, elsewhere)).reason is Reason.ADDRESS_REFUSED, "others are answered"
    assert dns.looks == [HANGS, "other.test"]


async def test_once_it_was_answered_the_issuer_is_looked_up_again(dns: SilentDns) -> None:
    lookups = Lookups(dns)
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(lookups.addresses("asker", HANGS, 443), 0.05)
    dns.answers.set()
    async with asyncio.timeout(10):
        while True:
            try:
                assert await lookups.addresses("asker", HANGS, 443) == ["192.0.2.1"]
            except OSError:
                await asyncio.sleep(0.01)  # the thread is a moment behind
            else:
                break


async def test_so_many_can_hang_and_no_more(dns: SilentDns) -> None:
    lookups = Lookups(dns, most=2)
    hanging = [asyncio.create_task(lookups.addresses(asker, HANGS, 443)) for asker in range(2)]
    await asyncio.sleep(0)
    with pytest.raises(OSError, match="2 other look-ups"):
        await lookups.addresses("third", "other.test", 443)
    dns.answers.set()
    assert await asyncio.gather(*hanging) == [["192.0.2.1"]] * 2


def test_a_process_that_ends_waits_for_none() -> None:
    ended = subprocess.run(
        [sys.executable, "-c", ENDS_MEANWHILE], capture_output=True, text=True, timeout=60, check=True
    )
    assert ended.stdout == "given up\n"

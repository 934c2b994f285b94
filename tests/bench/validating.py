"""End users' tokens by the second: through the whole validator, beside PyJWT's bare `decode` of the same tokens.

The issuer's keys are at hand, and no token that was believed is remembered. `python -m tests.bench.validating` measures
this alone.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from statistics import median
from typing import Final

import jwt
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from citadel.clock import SystemClock
from citadel.jws import algorithm_for
from citadel.jwt.validator import EndUserValidator
from tests.bench.effort import QUICK, Effort
from tests.bench.machine import Cores
from tests.bench.report import Row, table
from tests.end_users import AUDIENCE, ISSUER, InlineRing, SigningKey, bearer, rule

_TOKENS: Final = 50  # different ones, taken in turn
_GOAL: Final = 80.0


async def validating(_folder: Path, cores: Cores, effort: Effort) -> list[Row]:
    """One row for each kind of key that is common."""
    with cores.on_the_servers():
        return [
            await _beside_bare(SigningKey(ec.generate_private_key(ec.SECP256R1())), effort),
            await _beside_bare(SigningKey(rsa.generate_private_key(65537, 2048)), effort),
        ]


async def _beside_bare(signing: SigningKey, effort: Effort) -> Row:
    """Both take turns, so that whatever else the machine does falls on both."""
    public = signing.key.public_key()
    algorithm = algorithm_for(public)
    tokens = [_token(signing, number) for number in range(_TOKENS)]
    requests = [bearer(token) for token in tokens]
    validator = EndUserValidator([rule(signing, audiences=[AUDIENCE])], keys=InlineRing(), clock=SystemClock())

    async def ours() -> None:
        for request in requests:
            await validator.check(request)

    async def bare() -> None:
        for token in tokens:
            jwt.decode(token, public, algorithms=[algorithm], audience=AUDIENCE, issuer=ISSUER)

    await _rate(ours, 0.1), await _rate(bare, 0.1)
    seconds = effort.seconds / 10
    rates = [(await _rate(ours, seconds), await _rate(bare, seconds)) for _ in range(effort.rounds * 4)]
    return Row(
        what=f"end users' tokens validated, {algorithm}, of PyJWT's bare decode",
        value=100 * median(mine / theirs for mine, theirs in rates),
        unit="%",
        goal=_GOAL,
        note=f"{_middle([mine for mine, _ in rates])}; bare {_middle([theirs for _, theirs in rates])} of one core",
    )


async def _rate(work: Callable[[], Awaitable[None]], seconds: float) -> float:
    """Tokens per second of processor time: other processes must make neither look slow."""
    begun, done = time.thread_time(), 0
    while (elapsed := time.thread_time() - begun) < seconds:
        await work()
        done += _TOKENS
    return done / elapsed


def _token(signing: SigningKey, number: int) -> str:
    now = int(time.time())
    return signing.token(sub=f"user-{number}", exp=now + 3600, iat=now, scope="openid profile", name="Jason Smith")


def _middle(rates: Sequence[float]) -> str:
    return f"{median(rates):,.0f}/s"


if __name__ == "__main__":
    print(table(asyncio.run(validating(Path(), Cores.of_this_machine(), QUICK))))  # noqa: T201 - what this command is for

"""What one core can do at most: one P-256 signature and one verification for each certificate."""

from __future__ import annotations

import time

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec

from tests.bench.machine import Cores

_TO_BE_SIGNED = bytes(400)  # about as long as the signed part of a leaf


def bare_rate(cores: Cores, *, seconds: float) -> float:
    """Signatures with their verifications per second of the server's core, measured while the server waits.

    By processor time: what else runs meanwhile must not make the core look slower than it is, and the server better.
    """
    key = ec.generate_private_key(ec.SECP256R1())
    public, algorithm = key.public_key(), ec.ECDSA(hashes.SHA256())
    with cores.on_the_servers():
        begun, done = time.thread_time(), 0
        while (elapsed := time.thread_time() - begun) < seconds:
            for _ in range(20):
                public.verify(key.sign(_TO_BE_SIGNED, algorithm), _TO_BE_SIGNED, algorithm)
            done += 20
    return done / elapsed

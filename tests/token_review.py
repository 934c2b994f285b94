"""Kubernetes as Vault sees it: what answers whether a token is one of its service accounts', and nothing else."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import jwt

from tests.csrs import new_key


@dataclass
class TokenReview:
    """Knows the tokens that it made."""

    port: int = 0
    known: dict[str, str] = field(default_factory=dict, repr=False)

    def account(self, name: str) -> str:
        """A token of this service account in the namespace `mesh`."""
        user, now = f"system:serviceaccount:mesh:{name}", datetime.now(UTC)
        claims = {
            "iss": "https://kubernetes.default.svc",
            "sub": user,
            "aud": ["https://kubernetes.default.svc"],
            "exp": now + timedelta(hours=1),
            "iat": now,
            "kubernetes.io": {"namespace": "mesh", "serviceaccount": {"name": name, "uid": f"uid-{name}"}},
        }
        token = jwt.encode(claims, new_key(), algorithm="ES256")
        self.known[token] = user
        return token

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
        length = int(head.split("content-length:")[1].split("\r\n")[0])
        review = json.loads(await reader.readexactly(length))
        body = json.dumps(review | {"status": self._status(review["spec"])}).encode()
        writer.write(b"HTTP/1.1 201 Created\r\ncontent-type: application/json\r\nconnection: close\r\n")
        writer.write(f"content-length: {len(body)}\r\n\r\n".encode() + body)
        await writer.drain()
        writer.close()

    def _status(self, spec: dict[str, Any]) -> dict[str, Any]:
        user = self.known.get(spec["token"])
        if user is None:
            return {"authenticated": False, "error": "invalid bearer token"}
        uid = f"uid-{user.rpartition(':')[2]}"
        # Vault believes only an answer about the audiences that it asked for.
        return {
            "authenticated": True,
            "user": {"username": user, "uid": uid, "groups": ["system:serviceaccounts"]},
            "audiences": spec.get("audiences", []),
        }


@asynccontextmanager
async def running_token_review() -> AsyncIterator[TokenReview]:
    review = TokenReview()
    async with await asyncio.start_server(review.serve, "127.0.0.1", 0) as server:
        review.port = server.sockets[0].getsockname()[1]
        yield review

"""A workload that uses py-spiffe, unchanged: run as a process of its own, it prints what it got as JSON lines.

Its generated code defines the same messages as ours, which one process can hold only once.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from threading import Event
from typing import Final

from spiffe import JwtSvid, SpiffeId, TrustDomain, WorkloadApiClient, X509Source
from spiffe.errors import PySpiffeError

_PATIENCE: Final = 20.0  # seconds


def say(**fields: object) -> None:
    print(json.dumps(fields), flush=True)  # noqa: T201 - it is a program


def fetch() -> None:
    """Each call that fetches once."""
    with WorkloadApiClient() as client:
        svid = client.fetch_x509_svid()
        context = client.fetch_x509_context()
        bundles = client.fetch_x509_bundles()
        own = bundles.get_bundle_for_trust_domain(TrustDomain("a.test"))
        say(
            default=str(svid.spiffe_id),
            chain=len(svid.cert_chain),
            has_key=svid.private_key is not None,
            svids=[str(each.spiffe_id) for each in client.fetch_x509_svids()],
            context=[str(each.spiffe_id) for each in context.x509_svids],
            context_default=str(context.default_svid.spiffe_id),
            authorities=len(own.x509_authorities) if own else 0,
        )


def job() -> None:
    """Fetch once, close, and go on with the certificate until it is told to end."""
    with WorkloadApiClient() as client:
        svid = client.fetch_x509_svid()
        own = client.fetch_x509_bundles().get_bundle_for_trust_domain(TrustDomain("a.test"))
    say(
        serial=svid.leaf.serial_number,
        ends=svid.leaf.not_valid_after_utc.timestamp(),
        authorities=len(own.x509_authorities) if own else 0,
    )
    sys.stdin.read()


def refused() -> None:
    """A call of a workload that is none."""
    with WorkloadApiClient() as client:
        try:
            client.fetch_x509_svid()
        except PySpiffeError as error:
            say(refused=str(error))


def rotate() -> None:
    """A source that follows its certificate through two renewals."""
    changed = Event()
    with X509Source(timeout_in_seconds=_PATIENCE) as source:
        source.subscribe_for_updates(changed.set)
        for _ in range(3):
            say(
                spiffe_id=str(source.svid.spiffe_id), serial=source.svid.leaf.serial_number, bundles=len(source.bundles)
            )
            if not changed.wait(_PATIENCE):
                sys.exit("no update came")
            changed.clear()


def jwt() -> None:
    """Tokens: fetched, judged by the agent, and validated here with the bundle alone."""
    with WorkloadApiClient() as client:
        svid = client.fetch_jwt_svid({"shop", "till"})
        bundles = client.fetch_jwt_bundles()
        own = bundles.get_bundle_for_trust_domain(TrustDomain("a.test"))
        say(
            default=str(svid.spiffe_id),
            audience=sorted(svid.audience),
            svids=[str(each.spiffe_id) for each in client.fetch_jwt_svids({"shop"})],
            named=str(client.fetch_jwt_svid({"shop"}, SpiffeId("spiffe://a.test/job")).spiffe_id),
            judged=str(client.validate_jwt_svid(svid.token, "till").spiffe_id),
            validated=str(JwtSvid.parse_and_validate(svid.token, own, {"shop"}).spiffe_id) if own else "",
            authorities=len(own.jwt_authorities) if own else 0,
            refused=[_refusal(client, *each) for each in ((svid.token, "other"), (svid.token[:-8], "shop"))],
        )


def _refusal(client: WorkloadApiClient, token: str, audience: str) -> bool:
    try:
        client.validate_jwt_svid(token, audience)
    except PySpiffeError:
        return True
    return False


_MODES: Final[dict[str, Callable[[], None]]] = {
    "fetch": fetch,
    "job": job,
    "jwt": jwt,
    "refused": refused,
    "rotate": rotate,
}

if __name__ == "__main__":
    _MODES[sys.argv[1]]()

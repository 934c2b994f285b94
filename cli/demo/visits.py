"""Bookinfo's visitors: what each of them gets to see of the reviews, signed in or not."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from cli.demo.bookinfo import USER_HEADER, Productpage, Seen
from cli.demo.issuer import Issuer
from cli.demo.plan import Plan


@dataclass(frozen=True, slots=True, kw_only=True)
class Visit:
    """What `who` was to get, and what they got."""

    who: str
    expected: Seen
    seen: Seen


async def visit_all(plan: Plan, issuer: Issuer) -> Sequence[Visit]:
    """Everybody's visit, one after the other. Raises `httpx.HTTPError`."""
    jason, alice, impostor = issuer.token("jason"), issuer.token("alice"), Issuer(plan).token("jason")
    forged = {USER_HEADER: "jason"}
    page = Productpage(sidecar_port=plan.productpage.listen_port)
    try:
        return [
            Visit(who="somebody who has not signed in", expected=Seen(version="v1"), seen=await page.visit()),
            Visit(who="jason", expected=Seen(version="v2", user="jason"), seen=await page.visit(jason)),
            Visit(who="alice", expected=Seen(version="v1", user="alice"), seen=await page.visit(alice)),
            Visit(
                who=f"somebody who has not, and forged {USER_HEADER}: jason",
                expected=Seen(version="v1"),
                seen=await page.visit(headers=forged),
            ),
            Visit(
                who=f"alice, who forged {USER_HEADER}: jason",
                expected=Seen(version="v1", user="alice"),
                seen=await page.visit(alice, headers=forged),
            ),
            Visit(
                who="jason, who writes one",
                expected=Seen(version="v2", user="jason"),
                seen=await page.visit(jason, method="POST"),
            ),
            Visit(
                who="somebody who has not signed in and writes one",
                expected=Seen(refusal="401 sign_in_required"),
                seen=await page.visit(method="POST"),
            ),
            Visit(
                who="a token for jason that somebody else signed",
                expected=Seen(refusal="401 jwt_bad_signature"),
                seen=await page.visit(impostor),
            ),
        ]
    finally:
        await page.close()

"""A batch of certificate requests before it is sent, and the judgement of its answers. Blocks: call it off the loop."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime

from citadel.bundle import TrustBundle
from citadel.entry import Entry
from citadel.errors import CitadelError
from sds.holdings import HeldSvid
from sds.keep.check import check_issued
from sds.keep.keys import KeyKind, PrivateKey, new_key, request_for, to_pkcs8
from sds.keep.signer import Signed, SigningRequest


@dataclass(frozen=True, slots=True, kw_only=True)
class Draft:
    """An entry, the key made for its next SVID, and the request for it."""

    entry: Entry
    key: PrivateKey = field(repr=False)
    request: SigningRequest


def draft(entries: Sequence[Entry], kind: KeyKind) -> list[Draft]:
    """A fresh key and a request for each entry."""
    drafts = []
    for entry in entries:
        key = new_key(kind)
        drafts.append(Draft(entry=entry, key=key, request=SigningRequest(entry_id=entry.id, csr=request_for(key))))
    return drafts


def judge(
    drafts: Sequence[Draft], answers: Sequence[Signed | CitadelError], *, bundle: TrustBundle, now: datetime
) -> list[HeldSvid | CitadelError]:
    """Of each answer the SVID that may be handed on, or why not. A bad one takes nothing from the others."""
    return [
        answer if isinstance(answer, CitadelError) else _judge_one(each, answer, bundle, now)
        for each, answer in zip(drafts, answers, strict=True)
    ]


def _judge_one(draft: Draft, answer: Signed, bundle: TrustBundle, now: datetime) -> HeldSvid | CitadelError:
    try:
        svid = check_issued(
            answer.chain,
            spiffe_id=draft.entry.spiffe_id,
            public_key=draft.key.public_key(),
            bundle=bundle,
            now=now,
        )
    except CitadelError as error:
        return error
    return HeldSvid(entry_id=draft.entry.id, svid=svid, private_key=to_pkcs8(draft.key))

"""What is made of what a PKI engine answers, and of what the policy allows: over answers that are given here."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from typing import Any

import pytest
from cryptography.hazmat.primitives.serialization import Encoding

from ca.authority.model import Authority, AuthorityKind, AuthorityState
from ca.upstream.settings import VaultPkiSettings
from ca.upstream.vault.engine import PkiEngine
from ca.upstream.vault.offer import Line
from ca.upstream.vault.view import EngineView
from ca.vault.ports import Answer
from citadel.errors import CitadelError, Reason, Unavailable
from tests.certificates import A_TEST, NOW, Signed, root
from tests.clock import FakeClock

_FIRST = root("first", lifetime=timedelta(days=365))
_SIGN = "pki/issuer/id-first/sign-intermediate"
_LOOK = "sys/capabilities-self"


class Answers:
    """Fulfils `Vault`: one issuer, and a policy that allows all but what is in `denied`."""

    def __init__(self, *denied: str) -> None:
        self.denied = denied
        self.issuers = {"id-first": _FIRST}
        self.leading = "id-first"
        self.listed: Any = None
        self.capabilities: Mapping[str, Any] = {}
        self.calls: list[str] = []

    async def read(self, path: str) -> Answer:
        self.calls.append(path)
        name = path.split("/")[2]
        issuer_id = self.leading if name == "default" else name
        pem = self.issuers[issuer_id].certificate.public_bytes(Encoding.PEM).decode()
        return Answer(data={"issuer_id": issuer_id, "certificate": pem, "ca_chain": [pem]})

    async def list(self, path: str) -> Answer:
        self.calls.append(path)
        info = {each: {"issuer_name": each, "key_id": "k"} for each in self.issuers}
        return Answer(data=self.listed or {"keys": list(self.issuers), "key_info": info})

    async def write(self, path: str, data: Mapping[str, Any]) -> Answer:
        self.calls.append(path)
        if path in self.denied:
            raise Unavailable(Reason.VAULT_DENIED, f"Vault's policy does not allow `update` on `{path}`")
        allowed = {each: ["deny"] if each in self.denied else ["read", "update"] for each in data["paths"]}
        return Answer(data=allowed | self.capabilities)

    async def delete(self, path: str) -> None:
        raise NotImplementedError

    def trouble(self) -> CitadelError | None:
        return None


def _view(vault: Answers, clock: FakeClock, **named: bool) -> EngineView:
    clock.leap((NOW - clock.now()).total_seconds())
    settings = VaultPkiSettings(**named)
    return EngineView(PkiEngine(vault, mount="pki"), settings=settings, trust_domain=A_TEST, clock=clock)


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.mark.parametrize(
    ("denied", "said", "to_rotate"),
    [
        ((), "", ()),
        ((_SIGN,), f"update on {_SIGN}", ()),
        (("pki/root/replace", "pki/issuer/+"), "", ("pki/root/replace", "pki/issuer/+")),
        ((_LOOK,), "", (_LOOK,)),
    ],
    ids=["all is allowed", "nothing is signed", "no root comes", "nobody may look"],
)
async def test_what_the_policy_lacks_is_known_before_it_is_needed(
    clock: FakeClock, denied: tuple[str, ...], said: str, to_rotate: tuple[str, ...]
) -> None:
    vault = Answers(*denied)
    view = _view(vault, clock, alone=True, rotate_root=True)
    assert view.take(look := await view.look([]))  # what is in force is gone by all the same
    assert vault.calls.count(_LOOK) == 1
    if said:
        assert (look.trouble.reason if look.trouble else None) is Reason.VAULT_DENIED
        assert said in str(look.trouble)
        assert view.troubled_since == clock.now()
        vault.denied = ()
        again = await view.look([])
        assert view.is_news(again)
        assert view.take(again)
    assert (view.found.trouble, view.troubled_since) == (None, None)
    assert all(any(path in each for each in look.missing) for path in to_rotate)
    assert bool(look.missing) is bool(to_rotate)


async def test_the_issuer_under_the_root_that_is_active_here_is_asked_about_too(clock: FakeClock) -> None:
    vault = Answers(_SIGN)
    active = Authority(
        id="a",
        kind=AuthorityKind.ROOT,
        state=AuthorityState.ACTIVE,
        key_id="",
        certificate=_FIRST.certificate,
        parent_id=None,
        created_at=NOW,
    )
    vault.issuers["id-second"], vault.leading = root("second", lifetime=timedelta(days=365)), "id-second"
    assert (await _view(vault, clock).look([])).trouble is None
    assert _SIGN in str((await _view(vault, clock).look([active])).trouble)


@pytest.mark.parametrize(
    "listed",
    [
        {"keys": 7},
        {"keys": ["id-first"], "key_info": [7]},
        {"keys": ["id-first"], "key_info": {"id-first": "text"}},
        {"keys": [["id-first"]]},
    ],
    ids=str,
)
async def test_odd_data_is_told_as_such_wherever_it_is_read(clock: FakeClock, listed: Any) -> None:
    vault = Answers()
    vault.listed = listed
    with pytest.raises(CitadelError) as told:
        await PkiEngine(vault, mount="pki").issuers()
    assert told.value.reason is Reason.UPSTREAM_INVALID
    assert (await _view(vault, clock).look([])).trouble is not None
    vault = Answers()
    vault.capabilities = {_SIGN: 7}
    with pytest.raises(CitadelError, match="not understood"):
        await PkiEngine(vault, mount="pki").lacking(["id-first"], rotates=False)


async def test_a_root_that_was_made_from_here_and_is_gone_signs_no_more(clock: FakeClock) -> None:
    view = _view(Answers(), clock)
    assert view.take(late := await view.look([]))
    made: Signed = root("made", lifetime=timedelta(days=365))
    view.note_made(Line(issuer_id="id-made", chain=(), root=made.certificate))
    assert not view.take(late)
    assert made.certificate in view.lines()
    look = await view.look([])
    assert view.is_news(look)
    assert view.take(look)
    assert set(view.lines()) == {_FIRST.certificate}
    assert not view.is_news(await view.look([]))

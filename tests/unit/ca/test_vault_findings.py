"""From what Vault says of itself to what is good, bad, and to be done: what no real Vault would show in a test."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import timedelta
from typing import Any, Final

import pytest
from cryptography import x509

from ca.settings import ServerSettings
from ca.upstream.vault.engine import VaultIssuer
from ca.vault_check.access import probes
from ca.vault_check.facts import Health, Key, Keys, Login, Mount, Pki, Seal, VaultFacts
from ca.vault_check.policy import rules_for
from ca.vault_check.rules import findings
from ca.vault_check.subject import Subject
from citadel.errors import CitadelError, Reason, Unavailable
from citadel.finding import Finding, is_fit
from citadel.grade import Grade
from tests.certificates import NOW, Signed, intermediate, root

_YEAR: Final = timedelta(days=365)
_DENIED: Final = Unavailable(Reason.VAULT_DENIED, "the policy does not allow it")
_REFUSED: Final = Unavailable(Reason.VAULT_REFUSED, "no")
_GONE: Final = Unavailable(Reason.VAULT_NOT_FOUND, "there is nothing")
_EVERYTHING: Final = {
    "upstream": {"vault": {"alone": True, "rotate_root": True}},
    "keys": {"vault_transit": {}, "vault_seal": {"key": "seal-of-citadel"}},
}
_ROOT: Final = root(lifetime=_YEAR)


def settings(**sections: Any) -> ServerSettings:
    defaults: dict[str, Any] = {
        "trust_domain": "a.test",
        "data_dir": "/data",
        "vault": {
            "address": "https://vault.test:8200",
            "login": {"approle": {"role_id": "r", "secret_id_file": "/secret"}},
        },
    }
    return ServerSettings.model_validate(defaults | _EVERYTHING | sections)


def allowed(of: ServerSettings) -> Mapping[str, frozenset[str]]:
    needed = {rule.path: frozenset(rule.capabilities) for rule in rules_for(of)}
    return {path: needed.get(path, frozenset({"deny"})) for path in probes(of)}


def issuer(signed: Signed, name: str = "first") -> VaultIssuer:
    return VaultIssuer(id=f"id-{name}", name=name, certificate=signed.certificate)


def pki(*issuers: VaultIssuer, **others: Any) -> Pki:
    usable = frozenset({"read-only", "issuing-certificates", "crl-signing"})
    facts: dict[str, Any] = {"mount": Mount(engine="pki", longest=10 * _YEAR), "usages": usable}
    return Pki(**facts | {"issuers": issuers, "leading": issuers[0].id if issuers else _GONE} | others)


_SEAL_KEY: Final = Key(kind="aes256-gcm96", is_exportable=False, has_plaintext_backup=False)
_HEALTH: Final = Health(version="2.7.2", is_initialized=True, is_sealed=False, time=NOW, asked_at=NOW)
_LOGIN: Final = Login(policies=("citadel",), lease=timedelta(hours=1), is_renewable=True)
_TRANSIT: Final = Mount(engine="transit", longest=None)
_NAMES: Final = (f"citadel-x509-issuer-{'0' * 32}", "seal-of-citadel", "others")
_GOOD_ALLOWED: Final = allowed(settings())
_GOOD: Final = VaultFacts(
    health=_HEALTH,
    login=_LOGIN,
    allowed=_GOOD_ALLOWED,
    pki=pki(issuer(_ROOT)),
    transit=Keys(mount=_TRANSIT, names=_NAMES),
    seal=Seal(mount=_TRANSIT, key=_SEAL_KEY),
)


def found(facts: VaultFacts, of: ServerSettings | None = None) -> list[Finding]:
    return list(findings(facts, of or settings(), now=NOW))


def test_a_vault_that_fits_is_good_in_every_point() -> None:
    points = found(_GOOD)
    assert [each for each in points if each.grade is not Grade.GOOD] == []
    assert {each.subject for each in points} == set(Subject) - {Subject.POWER}
    assert is_fit(points)


_LEAVES_ALONE: Final = root(lifetime=_YEAR, constraints=x509.BasicConstraints(ca=True, path_length=0))
_NAMELESS: Final = root(lifetime=_YEAR, subject=x509.Name([]))
_WITHOUT_LOOKUP: Final = {**allowed(settings()), "auth/token/lookup-self": frozenset({"deny"})}
_WITHOUT_REVOKE: Final = {**allowed(settings()), "auth/token/revoke-self": frozenset({"deny"})}
_WITHOUT_DELETE: Final = {**allowed(settings()), "transit/keys/citadel-jwt-*": frozenset({"read", "update"})}
_WITH_SUDO: Final = {**allowed(settings()), "pki/issuer/+": frozenset({"read", "update", "sudo"})}
_WITH_VERBATIM: Final = {**allowed(settings()), "pki/sign-verbatim": frozenset({"update"})}
_WITH_ALL: Final = {path: frozenset({"read", "update", "delete", "sudo"}) for path in probes(settings())}


@pytest.mark.parametrize(
    ("changes", "subject", "grade", "words"),
    [
        ({"health": Unavailable(Reason.VAULT_UNTRUSTED, "no")}, Subject.REACHED, Grade.BAD, "no"),
        ({"health": replace(_HEALTH, is_sealed=True)}, Subject.SEALED, Grade.BAD, "it is sealed"),
        ({"health": replace(_HEALTH, is_initialized=False)}, Subject.SEALED, Grade.BAD, "it was never set up"),
        ({"health": replace(_HEALTH, version="1.10.4+ent")}, Subject.VERSION, Grade.BAD, "one issuer for each mount"),
        ({"health": replace(_HEALTH, time=NOW + timedelta(seconds=20))}, Subject.CLOCK, Grade.BAD, "20 s ahead"),
        ({"health": replace(_HEALTH, time=NOW - timedelta(minutes=2))}, Subject.CLOCK, Grade.WARNING, "120 s behind"),
        ({"login": Unavailable(Reason.VAULT_LOGIN_REFUSED, "no")}, Subject.LOGIN, Grade.BAD, "no"),
        ({"login": replace(_LOGIN, uses=7)}, Subject.LEASE, Grade.BAD, "good for 7 calls more"),
        ({"login": replace(_LOGIN, lease=timedelta(seconds=30))}, Subject.LEASE, Grade.WARNING, "it lasts 30s"),
        ({"login": replace(_LOGIN, policies=("root",))}, Subject.POWER, Grade.WARNING, "a root token"),
        ({"allowed": _DENIED}, Subject.POLICY, Grade.BAD, "does not allow it"),
        ({"allowed": _WITHOUT_LOOKUP}, Subject.POLICY, Grade.BAD, "lookup-self does not allow read"),
        ({"allowed": _WITHOUT_DELETE}, Subject.POLICY, Grade.BAD, "keys/citadel-jwt-* does not allow delete"),
        ({"allowed": _WITHOUT_REVOKE}, Subject.POLICY, Grade.WARNING, "revoke-self does not allow update"),
        ({"allowed": _WITH_SUDO}, Subject.POWER, Grade.WARNING, "pki/issuer/+ allows sudo"),
        ({"allowed": _WITH_VERBATIM}, Subject.POWER, Grade.WARNING, "pki/sign-verbatim allows update"),
        ({"allowed": _WITH_ALL}, Subject.POWER, Grade.WARNING, "for every path: delete, read, sudo, update"),
        ({"pki": pki(mount=_DENIED)}, Subject.MOUNT, Grade.BAD, "nothing that may be seen is mounted at pki"),
        ({"pki": pki(mount=_TRANSIT)}, Subject.MOUNT, Grade.BAD, "at pki is the engine transit, not pki"),
        ({"pki": pki(issuers=_DENIED)}, Subject.ISSUER, Grade.BAD, "does not allow it"),
        ({"pki": pki()}, Subject.ISSUER, Grade.BAD, "there is nothing"),
        ({"pki": pki(issuer(root(uri="spiffe://b.test")))}, Subject.ISSUER, Grade.BAD, "is for spiffe://b.test"),
        ({"pki": pki(issuer(_ROOT), usages=frozenset())}, Subject.USAGE, Grade.BAD, "its usage is empty"),
        ({"pki": pki(issuer(_ROOT), usages=_DENIED)}, Subject.USAGE, Grade.UNKNOWN, "does not allow to read"),
        ({"pki": pki(issuer(_LEAVES_ALONE))}, Subject.ISSUER, Grade.BAD, "has path length 0"),
        ({"pki": pki(issuer(intermediate(_ROOT)))}, Subject.ISSUER, Grade.BAD, "leads to none of its self-signed"),
        ({"pki": pki(issuer(root(not_after=NOW)))}, Subject.ISSUER, Grade.BAD, "has expired"),
        (
            {"pki": pki(issuer(_ROOT), issuer(root(lifetime=_YEAR), "twin"))},
            Subject.ROOTS,
            Grade.WARNING,
            "the issuer twin in pki is not trusted: it has the name of another root",
        ),
        (
            {"pki": pki(issuer(_ROOT), issuer(root("company", uri=None), "company"))},
            Subject.ROOTS,
            Grade.WARNING,
            "company in pki is trusted, and names no trust domain",
        ),
        (
            {"pki": pki(issuer(root("company", uri=None)))},
            Subject.ROOTS,
            Grade.WARNING,
            "names no trust domain, and is trusted all the same",
        ),
        ({"pki": pki(issuer(_NAMELESS))}, Subject.ISSUER, Grade.BAD, "has an empty subject"),
        ({"pki": pki(issuer(root(lifetime=timedelta(days=3))))}, Subject.LIFETIME, Grade.WARNING, "ends in 3d, before"),
        (
            {"pki": pki(issuer(_ROOT), mount=Mount(engine="pki", longest=timedelta(days=30)))},
            Subject.LIMIT,
            Grade.WARNING,
            "root_lifetime (365d) would be shortened",
        ),
        (
            {"pki": pki(issuer(_ROOT), mount=Mount(engine="pki", longest=None))},
            Subject.LIMIT,
            Grade.WARNING,
            "Vault's own, 32d unless",
        ),
        (
            {"transit": Keys(mount=_TRANSIT, names=(*_NAMES, "citadel-jwt-1"))},
            Subject.PREFIX,
            Grade.WARNING,
            "citadel-jwt-1: not of this server's making",
        ),
        ({"transit": Keys(mount=_DENIED, names=_DENIED)}, Subject.MOUNT, Grade.BAD, "is mounted at transit"),
        ({"seal": Seal(mount=_TRANSIT, key=_GONE)}, Subject.SEAL_KEY, Grade.BAD, "there is nothing"),
        (
            {"seal": Seal(mount=_TRANSIT, key=_SEAL_KEY, has_sealed=True, opened=_REFUSED)},
            Subject.SEAL_KEY,
            Grade.BAD,
            "seal-of-citadel does not open what is sealed on record: no",
        ),
        ({"seal": Seal(mount=_TRANSIT, key=_DENIED)}, Subject.SEAL_KEY, Grade.UNKNOWN, "does not allow to read"),
        (
            {"seal": Seal(mount=_TRANSIT, key=replace(_SEAL_KEY, kind="rsa-2048"))},
            Subject.SEAL_KEY,
            Grade.BAD,
            "is of type rsa-2048, not aes256-gcm96",
        ),
        (
            {"seal": Seal(mount=_TRANSIT, key=replace(_SEAL_KEY, is_exportable=True))},
            Subject.SEAL_KEY,
            Grade.WARNING,
            "can be exported",
        ),
    ],
)
def test_each_misfit_is_found_and_named(changes: dict[str, Any], subject: Subject, grade: Grade, words: str) -> None:
    points = found(replace(_GOOD, **changes))
    [hit] = [each for each in points if each.subject is subject and each.grade is grade]
    assert words in hit.found
    assert hit.fix or grade is Grade.UNKNOWN
    assert (hit.reason is not None) is (grade is Grade.BAD)
    assert is_fit(points) is (grade is not Grade.BAD)


def test_a_seal_key_that_is_gone_is_never_made_anew_where_keys_are_sealed_by_it() -> None:
    for has_sealed, reason, words in (
        (False, Reason.VAULT_NOT_FOUND, "make it, if no server has ever used it"),
        (True, Reason.VAULT_KEY_LOST, "restore it from a backup of Vault: a new one opens nothing that is sealed"),
    ):
        points = found(replace(_GOOD, seal=Seal(mount=_TRANSIT, key=_GONE, has_sealed=has_sealed, opened=_GONE)))
        [hit] = [each for each in points if each.subject is Subject.SEAL_KEY]
        assert (hit.reason, words in hit.fix, "make" in hit.fix) == (reason, True, not has_sealed)


def test_whether_something_is_mounted_is_not_told_by_a_policy_that_allows_nothing_below_it() -> None:
    less = {path: has if not path.startswith("pki/") else frozenset({"deny"}) for path, has in _GOOD_ALLOWED.items()}
    points = found(replace(_GOOD, allowed=less, pki=pki(mount=_DENIED)))
    assert {each.grade for each in points if each.subject is Subject.POLICY} == {Grade.BAD}
    [hit] = [each for each in points if each.subject is Subject.MOUNT and "pki" in each.found]
    assert (hit.grade, hit.fix) == (Grade.UNKNOWN, "")


def test_names_that_nobody_may_list_are_nothing_to_look_into() -> None:
    points = found(replace(_GOOD, transit=Keys(mount=_TRANSIT, names=_DENIED)))
    assert {each.grade for each in points} == {Grade.GOOD}


def test_a_token_from_a_file_that_cannot_be_renewed_is_one_that_ends() -> None:
    of = settings(
        vault={"address": "https://vault.test:8200", "login": {"token": {"token_file": "/token"}}, "namespace": "team"}
    )
    facts = replace(_GOOD, login=replace(_LOGIN, is_renewable=False), allowed=allowed(of))
    by_subject = {each.subject: each for each in found(facts, of)}
    assert by_subject[Subject.LEASE].grade is Grade.WARNING
    assert by_subject[Subject.LOGIN].found == "by token in the namespace team, with the policies citadel"
    approle = {each.subject: each for each in found(replace(_GOOD, login=facts.login))}
    assert approle[Subject.LOGIN].found.endswith("how often it may be used, cannot be told")
    assert approle[Subject.LEASE].found == "it lasts 1h, and cannot be renewed: this server logs in again"


def test_a_seal_key_that_a_server_may_delete_with_its_own_is_told() -> None:
    of = settings(keys={"vault_transit": {}, "vault_seal": {"key": "citadel-jwt-seal"}})
    [point] = [each for each in found(replace(_GOOD, allowed=allowed(of)), of) if each.subject is Subject.PREFIX]
    assert (point.grade, point.found.split(",")[0]) == (Grade.WARNING, "citadel-jwt-seal")


@pytest.mark.parametrize("error", [_DENIED, Unavailable(Reason.VAULT_UNAVAILABLE, "sealed")])
def test_nothing_is_said_of_what_could_not_be_looked_at(error: CitadelError) -> None:
    points = found(VaultFacts(health=error))
    assert [each.subject for each in points] == [Subject.REACHED, Subject.LOGIN]
    assert points[1].grade is Grade.UNKNOWN

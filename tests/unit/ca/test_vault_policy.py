"""The smallest policy for given settings, and what is shipped of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import pytest

from ca.settings import ServerSettings
from ca.vault_check.policy import as_hcl, rules_for

_SHIPPED: Final = Path(__file__).resolve().parents[3] / "deploy" / "vault"
_APPROLE: Final = {"approle": {"role_id": "r", "secret_id_file": "/secret"}}


def settings(**sections: Any) -> ServerSettings:
    defaults: dict[str, Any] = {
        "trust_domain": "a.test",
        "data_dir": "/data",
        "keys": {"kek_file": "/kek"},
        "vault": {"address": "https://vault.test:8200", "login": _APPROLE},
    }
    return ServerSettings.model_validate(defaults | sections)


def paths(of: ServerSettings) -> dict[str, str]:
    return {rule.path: " ".join(rule.capabilities) for rule in rules_for(of) if "/token/" not in rule.path}


@pytest.mark.parametrize(
    ("file", "sections"),
    [
        ("upstream.hcl", {"upstream": {"vault": {}}}),
        ("upstream-rotate-root.hcl", {"upstream": {"vault": {"alone": True, "rotate_root": True}}}),
        ("transit.hcl", {"keys": {"vault_transit": {}}}),
        ("seal.hcl", {"keys": {"vault_seal": {}}}),
    ],
)
def test_what_is_shipped_is_what_the_defaults_need(file: str, sections: dict[str, Any]) -> None:
    assert (_SHIPPED / file).read_text() == as_hcl(rules_for(settings(**sections)))


def test_nothing_else_is_shipped() -> None:
    names = {"upstream.hcl", "upstream-rotate-root.hcl", "transit.hcl", "seal.hcl", "README.md"}
    assert {each.name for each in _SHIPPED.iterdir()} == names


def test_mounts_and_names_stand_in_the_paths() -> None:
    of = settings(
        upstream={"vault": {"mount": "mesh/pki", "issuer": "east"}},
        keys={"vault_transit": {"mount": "keys", "prefix": "east"}, "vault_seal": {"mount": "seals", "key": "old"}},
    )
    assert paths(of) == {
        "sys/capabilities-self": "update",
        "mesh/pki/issuer/+/sign-intermediate": "update",
        "mesh/pki/issuer/+": "read",
        "keys/keys/east-x509-root-*": "read update delete",
        "keys/sign/east-x509-root-*": "update",
        "keys/keys/east-x509-issuer-*": "read update delete",
        "keys/sign/east-x509-issuer-*": "update",
        "keys/keys/east-jwt-*": "read update delete",
        "keys/sign/east-jwt-*": "update",
        "keys/keys/east-records-*": "read update",
        "keys/sign/east-records-*": "update",
        "seals/datakey/plaintext/old": "update",
        "seals/decrypt/old": "update",
        "seals/keys/old": "read",
    }


def test_an_issuer_that_is_pinned_by_its_id_is_the_only_one_that_may_be_asked() -> None:
    pinned = "ccc8751d-2edc-2bbf-826d-85a3aadbe27f"
    assert set(paths(settings(upstream={"vault": {"issuer": pinned}}))) >= {
        f"pki/issuer/{pinned}/sign-intermediate",
        f"pki/issuer/{pinned}",
    }


@pytest.mark.parametrize(
    "name", ["citadel-seal", "citadel-eu-seal", "citadel-eu-x509-root-1", "citadel-2", "citadel", "citadel-backup-1"]
)
def test_a_server_may_touch_no_key_in_transit_that_is_none_of_its_own(name: str) -> None:
    rules = paths(settings(keys={"vault_transit": {}}))
    for verb in ("keys", "sign"):
        own = [path for path in rules if path.startswith(f"transit/{verb}/")]
        assert len(own) == 4
        assert not any(f"transit/{verb}/{name}".startswith(path.rstrip("*")) for path in own)


def test_the_key_of_the_records_is_for_good() -> None:
    assert paths(settings(keys={"vault_transit": {}}))["transit/keys/citadel-records-*"] == "read update"


def test_only_a_folder_s_key_is_taken_into_transit() -> None:
    keys = {"vault_transit": {}}
    taken = settings(keys=keys, upstream={"files": {"folder": "/cacerts"}})
    assert set(paths(taken)) - set(paths(settings(keys=keys))) == {"transit/wrapping_key"}


def test_a_token_that_somebody_else_made_is_not_revoked() -> None:
    by_token = {"address": "https://vault.test:8200", "login": {"token": {"token_file": "/token"}}}
    both = [
        {rule.path for rule in rules_for(settings(upstream={"vault": {}}, vault=each))}
        for each in (
            {"address": "https://vault.test:8200", "login": _APPROLE},
            by_token,
        )
    ]
    assert both[0] - both[1] == {"auth/token/revoke-self"}

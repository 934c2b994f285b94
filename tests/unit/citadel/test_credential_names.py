"""How gateways name credentials."""

from __future__ import annotations

import pytest

from citadel.errors import InvalidArgument, Reason
from citadel.kubernetes.credential_names import CredentialName, is_credential_name

LONG = "a" * 253


@pytest.mark.parametrize(
    ("text", "namespace", "secrets"),
    [
        ("kubernetes://web", None, ("web",)),
        ("kubernetes://shop/web", "shop", ("web",)),
        ("kubernetes://web.example.org", None, ("web.example.org",)),
        ("kubernetes://0/9", "0", ("9",)),
        (f"kubernetes://{LONG}", None, (LONG,)),
        ("kubernetes://web-cacert", None, ("web-cacert", "web")),
        ("kubernetes://shop/web-cacert", "shop", ("web-cacert", "web")),
        ("kubernetes://web-cacert-cacert", None, ("web-cacert-cacert", "web-cacert")),
        ("kubernetes://web--cacert", None, ("web--cacert",)),  # no other secret can be called `web-`
        ("kubernetes://cacert", None, ("cacert",)),
    ],
)
def test_names_that_are_taken(text: str, namespace: str | None, secrets: tuple[str, ...]) -> None:
    name = CredentialName.parse(text)
    assert (name.namespace, name.secrets) == (namespace, secrets)
    assert name.is_authorities is text.endswith("-cacert")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "web",
        "kubernetes:web",
        "KUBERNETES://web",
        "kubernetes-gateway://shop/web",
        "kubernetes://",
        "kubernetes:///web",
        "kubernetes://shop/",
        "kubernetes://a/b/c",
        "kubernetes://Web",
        "kubernetes://-web",
        "kubernetes://web-",
        "kubernetes://web..org",
        "kubernetes://.web",
        "kubernetes://-cacert",
        "kubernetes://we b",
        "kubernetes://web\n",
        "kubernetes://wéb",
        "kubernetes://web,metadata.name=other",
        "kubernetes://web?x=1",
        "kubernetes://../web",
        "kubernetes://sh.op/web",
        f"kubernetes://{'a' * 64}/web",
        f"kubernetes://{LONG}a",
    ],
)
def test_names_that_name_nothing(text: str) -> None:
    with pytest.raises(InvalidArgument) as refused:
        CredentialName.parse(text)
    assert refused.value.reason is Reason.CREDENTIAL_UNKNOWN


def test_a_bad_name_is_told_from_those_of_other_secrets() -> None:
    assert is_credential_name("kubernetes://-")
    assert not any(map(is_credential_name, ("default", "ROOTCA", "spiffe://a.test/kubernetes://web", "file-cert:a~b")))

"""Which templates, label selectors and cluster domains are taken, and why others are not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from ca.kubernetes.workloads.labels import LabelSelector
from ca.kubernetes.workloads.template import IdTemplate
from ca.settings import ServerSettings
from citadel.errors import InvalidArgument, Reason
from tests.unit.ca.values import A_TEST

LABELS = {"app": "web", "tier": "front", "example.org/team": "a", "empty": ""}


@pytest.mark.parametrize(
    ("selector", "fits"),
    [
        ("", True),
        ("  ", True),
        ("app=web\n", True),
        ("app=web", True),
        ("app==web", True),
        ("app = web , tier = front", True),
        ("app=api", False),
        ("app!=web", False),
        ("app!=api", True),
        ("missing!=x", True),
        ("missing=x", False),
        ("empty=", True),
        ("app=", False),
        ("missing=", False),
        ("app in (web,api)", True),
        ("app in (web, api),tier notin (back)", True),
        ("app in (api)", False),
        ("missing in (x)", False),
        ("missing notin (x)", True),
        ("app notin (web)", False),
        ("app", True),
        ("missing", False),
        ("!missing", True),
        ("! missing", True),
        ("!app", False),
        ("example.org/team=a", True),
        ("in=x", False),
        ("notin", False),
    ],
)
def test_a_label_selector_fits_as_in_kubectl(selector: str, fits: bool) -> None:
    assert LabelSelector.parse(selector).matches(LABELS) is fits


@pytest.mark.parametrize(
    "nonsense",
    [
        ",",
        "app=web,",
        "app=web tier=front",
        "=web",
        "app=we b",
        "app=-web",
        "app===web",
        "app!web",
        "app in web",
        "app in ()",
        "app in (web",
        "app in (web,)",
        "app in (a)(b)",
        "app in(a) b",
        "a/b/c=d",
        "UPPER.example.org/x=1",
        "app>1",
        "app=" + "x" * 64,
        "x" * 64,
        "app=wéb",
        "!!app",
        "app in (\n)",
    ],
)
def test_what_is_no_label_selector_is_refused(nonsense: str) -> None:
    with pytest.raises(ValueError, match="label"):
        LabelSelector.parse(nonsense)


def settings(trust_domain: str = "a.test", **workloads: Any) -> ServerSettings:
    return ServerSettings.model_validate(
        {
            "trust_domain": trust_domain,
            "data_dir": Path("/data"),
            "keys": {"kek_env": "KEK"},
            "kubernetes": {"clusters": [{"name": "citadel", "workloads": workloads}]},
        }
    )


@pytest.mark.parametrize(
    ("workloads", "why"),
    [
        ({"template": "spiffe://{trust_domain}/ns/{name}"}, "there is no {name}; there are {trust_domain}"),
        ({"template": "spiffe://{trust_domain}/ns/{}"}, "there is no {}"),
        ({"template": "spiffe://{trust_domain}/ns/{namespace"}, "a brace"),
        ({"template": "spiffe://{trust_domain}/ns/{{namespace}}"}, "a brace"),
        ({"template": "spiffe://b.test/ns/{namespace}"}, "outside of the server's trust domain a.test"),
        ({"template": "spiffe://a.tes{namespace}/x"}, "outside of the server's trust domain a.test"),
        ({"template": "spiffe://{namespace}/x"}, "outside of the server's trust domain a.test"),
        ({"template": "spiffe://{trust_domain}"}, "outside of"),
        ({"template": "spiffe://{trust_domain}/"}, "gives no SPIFFE ID"),
        ({"template": "spiffe://{trust_domain}/ns/{namespace}/"}, "gives no SPIFFE ID"),
        ({"template": "spiffe://{trust_domain}/n s/{namespace}"}, "gives no SPIFFE ID"),
        ({"template": "/ns/{namespace}"}, "gives no SPIFFE ID"),
        ({"template": ""}, "gives no SPIFFE ID"),
        ({"template": "spiffe://{trust_domain}/citadel/x"}, "reserved"),
        ({"template": "spiffe://{trust_domain}/citadel"}, "reserved"),
        ({"template": "spiffe://{trust_domain}/{namespace}/sa/{service_account}"}, "reserved"),
        ({"template": "spiffe://{trust_domain}/{cluster}/{namespace}"}, "reserved"),  # a cluster of that name
        ({"template": "spiffe://{trust_domain}/cit{namespace}/x"}, "reserved"),
        ({"template": "spiffe://{trust_domain}/{pod}el/x"}, "reserved"),
        ({"template": "spiffe://{trust_domain}/ns/{namespace}-{pod}"}, "two names into one path segment"),
        ({"template": "spiffe://{trust_domain}/ns/{pod}{pod}"}, "two names into one path segment"),
        ({"federates_with": ["a.test"]}, "names this trust domain itself"),
        ({"pod_labels": "app in"}, "no part of a label selector"),
        ({"cluster_domain": "citadel.internal"}, "reserved"),
        ({"cluster_domain": "cluster..local"}, "is not a DNS name"),
        ({"cluster_domain": ""}, "is not a DNS name"),
    ],
)
def test_what_could_never_be_right_is_refused_when_the_settings_are_read(workloads: dict[str, Any], why: str) -> None:
    with pytest.raises(ValidationError) as refused:
        settings(**workloads)
    assert why in str(refused.value)


@pytest.mark.parametrize(
    ("template", "spiffe_id"),
    [
        ("spiffe://{trust_domain}/ns/{namespace}/sa/{service_account}", "spiffe://a.test/ns/shop/sa/web"),
        ("spiffe://a.test/k/{cluster}/{namespace}/{pod}", "spiffe://a.test/k/main/shop/web-0"),
        ("spiffe://{trust_domain}/{cluster}/{namespace}", "spiffe://a.test/main/shop"),
        ("spiffe://{trust_domain}/ns.{namespace}/{cluster}-{pod}", "spiffe://a.test/ns.shop/main-web-0"),
        ("spiffe://{trust_domain}/everybody", "spiffe://a.test/everybody"),
        ("spiffe://{trust_domain}/citadels/{namespace}", "spiffe://a.test/citadels/shop"),
    ],
)
def test_a_template_is_filled_in(template: str, spiffe_id: str) -> None:
    made = IdTemplate.parse(template, trust_domain=A_TEST, cluster="main")
    assert str(made.fill(namespace="shop", service_account="web", pod="web-0")) == spiffe_id


@pytest.mark.invariant(13)
@pytest.mark.parametrize(
    ("names", "reason"),
    [
        ({"namespace": "a/b"}, Reason.ID_MALFORMED),
        ({"namespace": "shop/sa/admin"}, Reason.ID_MALFORMED),
        ({"service_account": ".."}, Reason.ID_MALFORMED),
        ({"service_account": "."}, Reason.ID_MALFORMED),
        ({"service_account": ""}, Reason.ID_MALFORMED),
        ({"service_account": "wéb"}, Reason.ID_MALFORMED),
        ({"service_account": "web%2Fx"}, Reason.ID_MALFORMED),
        ({"service_account": "{pod}"}, Reason.ID_MALFORMED),
        ({"service_account": "web\n"}, Reason.ID_MALFORMED),
        ({"service_account": "x" * 2048}, Reason.ID_MALFORMED),
    ],
)
def test_names_that_make_no_spiffe_id_are_refused(names: dict[str, str], reason: Reason) -> None:
    made = IdTemplate.parse("spiffe://a.test/ns/{namespace}/sa/{service_account}", trust_domain=A_TEST, cluster="main")
    with pytest.raises(InvalidArgument) as refused:
        made.fill(**{"namespace": "shop", "service_account": "web", "pod": "web-0"} | names)
    assert refused.value.reason is reason

"""Where the API server is, as settings say it."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from citadel.kubernetes.settings import ApiServerSettings


def test_a_context_without_its_kubeconfig_is_refused() -> None:
    assert ApiServerSettings.model_validate({"kubeconfig": "/k", "context": "east"}).context == "east"
    with pytest.raises(ValidationError, match="add kubeconfig"):
        ApiServerSettings.model_validate({"context": "east"})

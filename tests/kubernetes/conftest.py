"""What these tests share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.kube_api import KubernetesServer, missing, running_kubernetes


@pytest.fixture(scope="session")
def kubernetes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[KubernetesServer]:
    """One API server for all tests, each with namespaces and names of its own; who stops it starts one for itself."""
    if lacking := missing():
        pytest.fail(lacking)
    with running_kubernetes(tmp_path_factory.mktemp("kubernetes")) as server:
        yield server

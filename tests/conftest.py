"""What tests of every room share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.postgres import Postgres, running_postgres


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    """One PostgreSQL for all tests, each with a database of its own; who stops it starts one for itself instead."""
    with running_postgres() as running:
        yield running

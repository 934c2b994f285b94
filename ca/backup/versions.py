"""Which schemas this version of Citadel knows."""

from __future__ import annotations

from pathlib import Path

import alembic.script

import ca.store


def newest_schema() -> str:
    """The migration that today's tables stand at."""
    return str(_script().get_current_head())


def is_known(schema: str) -> bool:
    """Whether a store at this migration can be brought up to date."""
    return schema in {revision.revision for revision in _script().walk_revisions()}


def _script() -> alembic.script.ScriptDirectory:
    return alembic.script.ScriptDirectory(str(Path(ca.store.__file__).with_name("migrations")))

"""Two processes never run on one data folder."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from citadel.errors import FailedPrecondition, Reason
from citadel.folder_lock import folder_lock


def test_a_held_folder_is_refused_and_free_again_afterwards(tmp_path: Path) -> None:
    with folder_lock(tmp_path):
        with pytest.raises(FailedPrecondition) as refused, folder_lock(tmp_path):
            pass
        assert refused.value.reason is Reason.DATA_DIR_IN_USE
    with folder_lock(tmp_path):
        assert stat.S_IMODE((tmp_path / "lock").stat().st_mode) == 0o600

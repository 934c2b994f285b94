"""Who this server is to others that want the same store."""

from __future__ import annotations

import re
import socket
from pathlib import Path
from typing import Final
from uuid import uuid4

from ca.lease.model import Holder
from citadel.config.files import write_private
from citadel.config.types import HostPort
from citadel.errors import Reason, Unavailable

_FILE: Final = "holder"
_ID: Final = re.compile(r"[0-9a-f]{32}")


def holder_of(data_dir: Path, *, address: HostPort) -> Holder:
    """The holder that runs on `data_dir`: the same after a restart, so that it need not wait for its own lease.

    Only for who holds the lock of `data_dir`. Raises `Unavailable` (`store_unavailable`) where the disk refuses.
    """
    path = data_dir / _FILE
    try:
        known = path.read_text("ascii", errors="replace").strip() if path.exists() else ""
        if _ID.fullmatch(known) is None:
            known = uuid4().hex
            write_private(path, known.encode())
    except OSError as error:
        raise Unavailable(
            Reason.STORE_UNAVAILABLE, f"{path} cannot be read or written: {error.strerror}", fix="look at the disk"
        ) from error
    return Holder(id=known, name=f"{socket.gethostname()} ({address})")

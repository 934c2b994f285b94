"""`openssl verify`, a verifier that we did not write, and `verify_x509_svid` agree on every kind of chain."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from citadel.errors import Unauthenticated
from citadel.svid import verify_x509_svid
from tests.certificates import Signed, bundle
from tests.chains import Case, cases

pytestmark = [
    pytest.mark.integration,
    pytest.mark.skipif(shutil.which("openssl") is None, reason="no openssl command on this machine"),
]


@pytest.mark.spec("X509-14", "X509-16", "X509-29")
@pytest.mark.parametrize("case", [pytest.param(case, id=case.name) for case in cases()])
def test_the_verdict_is_that_of_openssl_verify(case: Case, tmp_path: Path) -> None:
    assert _openssl_accepts(case, tmp_path) == (not case.refusal)
    assert _we_accept(case) == (not case.refusal)


def _we_accept(case: Case) -> bool:
    domain = case.trust_domain
    try:
        verify_x509_svid(
            [link.der for link in case.chain], {domain: bundle(*case.anchors, trust_domain=domain)}, case.now
        )
    except Unauthenticated:
        return False
    return True


def _openssl_accepts(case: Case, folder: Path) -> bool:
    leaf, *intermediates = case.chain
    command = ["openssl", "verify", "-no-CApath", "-no-CAstore", "-partial_chain", "-policy_check", "-auth_level", "2"]
    command += ["-attime", str(int(case.now.timestamp())), "-CAfile", _pem(folder / "anchors.pem", *case.anchors)]
    if intermediates:
        command += ["-untrusted", _pem(folder / "intermediates.pem", *intermediates)]
    ran = subprocess.run([*command, _pem(folder / "leaf.pem", leaf)], capture_output=True, text=True, check=False)
    # Anything but a verdict (an unknown option, an unreadable file) must not pass for a refusal.
    assert ran.returncode == 0 or "verification failed" in ran.stderr, ran.stderr
    return ran.returncode == 0


def _pem(path: Path, *links: Signed) -> str:
    path.write_bytes(b"".join(link.pem for link in links))
    return str(path)

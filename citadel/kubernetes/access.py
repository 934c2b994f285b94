"""Where an API server is, as whom it is asked, and by which roots it is believed: as its files say it now."""

from __future__ import annotations

import asyncio
import hashlib
import re
import ssl
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from kubernetes.aio.client import ApiClient, Configuration
from kubernetes.aio.config import load_kube_config
from kubernetes.aio.config.incluster_config import InClusterConfigLoader

from citadel.kubernetes.settings import ApiServerSettings

ACCOUNT: Final = Path("/var/run/secrets/kubernetes.io/serviceaccount")  # where a pod finds its service account
_BEGIN: Final = re.compile(rb"-----BEGIN ")
_END: Final = re.compile(rb"-----END [A-Z0-9 ]+-----")
_MOST_CONNECTIONS: Final = 1000  # a watch holds one for itself, and each secret of a gateway is watched alone


@dataclass(frozen=True, slots=True, kw_only=True)
class Access:
    """What was read at one time. Those that are equal lead to the same API server in the same way.

    `digests` are of the kubeconfig, and of the files of authorities, certificate and key; with `names_nobody` there is
    no token and no certificate.
    """

    host: str
    token: str = field(repr=False)
    digests: tuple[bytes, ...]
    names_nobody: bool
    configuration: Configuration = field(repr=False, compare=False)
    paths: tuple[Path, ...] = field(compare=False)

    def check_whole(self) -> None:
        """Raises `ValueError` where the files are being written. Blocks on the disk."""
        contents = [path.read_bytes() for path in self.paths]
        if _digests(contents) != self.digests:
            raise ValueError("it is being written just now")
        # OpenSSL takes what a file begins with, whatever follows.
        if any(len(_BEGIN.findall(each)) != len(_END.findall(each)) for each in contents):
            raise ValueError("a certificate or key in it has no end")

    def client(self) -> ApiClient:
        """The official client, not connected yet. Blocks on the disk, and raises what it raises."""
        api = ApiClient(self.configuration)
        if not (self.configuration.ssl_ca_cert or self.configuration.ca_cert_data):
            api.rest_client.ssl_context = _public_roots(self.configuration)
        return api


async def read_access(settings: ApiServerSettings, *, account: Path = ACCOUNT) -> Access:
    """Read it, by the command of the kubeconfig where that has one.

    Raises what the package raises, and `ValueError` for what nobody should trust.
    """
    configuration = Configuration()
    # Nothing of the environment has a say in where tokens go.
    configuration.client_session_kwargs = {"trust_env": False}
    configuration.connection_pool_maxsize = _MOST_CONNECTIONS
    if settings.kubeconfig is None:
        loader = InClusterConfigLoader(  # type: ignore[no-untyped-call]  # the package types it in part
            str(account / "token"), str(account / "ca.crt"), try_refresh_token=False
        )
        await asyncio.to_thread(loader.load_and_set, configuration)
    else:
        await asyncio.to_thread(settings.kubeconfig.stat)  # the package takes one that is not there for an empty one
        await load_kube_config(  # type: ignore[no-untyped-call]  # as above
            config_file=str(settings.kubeconfig), context=settings.context, client_configuration=configuration
        )
    if not configuration.host.startswith("https://"):
        raise ValueError(f"{configuration.host} is not https")
    if not configuration.verify_ssl:
        raise ValueError("insecure-skip-tls-verify is not taken; name the certificate-authority instead")
    named = (settings.kubeconfig, configuration.ssl_ca_cert, configuration.cert_file, configuration.key_file)
    paths = tuple(Path(each) for each in named if each)
    token = str(configuration.api_key.get("BearerToken", "")).strip()  # files end with a line
    if token:
        configuration.api_key["BearerToken"] = token
    return Access(
        host=configuration.host,
        token=token,
        digests=await asyncio.to_thread(lambda: _digests([path.read_bytes() for path in paths])),
        names_nobody=not (token or configuration.cert_file),
        configuration=configuration,
        paths=paths,
    )


def _digests(contents: Sequence[bytes]) -> tuple[bytes, ...]:
    return tuple(hashlib.sha256(each).digest() for each in contents)


def _public_roots(configuration: Configuration) -> ssl.SSLContext:
    """Those of the system, for a kubeconfig without a CA: Python's own way would follow SSL_CERT_FILE to others."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    places = ssl.get_default_verify_paths()
    if Path(places.openssl_cafile).exists():
        context.load_verify_locations(cafile=places.openssl_cafile)
    if Path(places.openssl_capath).exists():
        context.load_verify_locations(capath=places.openssl_capath)
    if configuration.cert_file:
        context.load_cert_chain(configuration.cert_file, keyfile=configuration.key_file)
    return context

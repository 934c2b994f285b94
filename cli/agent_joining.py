"""How `citadel agent` comes to its identity: from disk, by joining, or back with its recorded key."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Final

import structlog
from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from tenacity import AsyncRetrying, RetryCallState, retry_if_exception, wait_random, wait_random_exponential

from citadel.bundle import TrustBundle
from citadel.clock import Clock
from citadel.config.files import read_secret_file
from citadel.errors import CitadelError, FailedPrecondition, InvalidArgument, Reason, ResourceExhausted, Unavailable
from citadel.join_string import JoinString
from citadel.repeated import Repeated
from cli.agent_pod import SHOWING, is_by_token, is_of_here, pod_of, shown_in
from cli.agent_psat import may_pass, psat_anew, psat_invitation
from sds.keep.keys import load_pem
from sds.link.bootstrap import Bootstrap, Invitation, parse_bundle_file
from sds.link.credentials import NodeCertificate
from sds.link.identity import AgentIdentity, IdentityFile, OwnIdentity
from sds.link.joining_key import JoiningKey
from sds.link.returning import Anew, Returning
from sds.settings import AgentSettings

JOIN_STRING_VARIABLE: Final = "CITADEL_JOIN_STRING"
_AFTER_REFUSAL: Final = (7.5, 12.5)  # seconds; each refusal has cost the server a question to somebody else

_log = structlog.get_logger(__name__)


async def own_identity(settings: AgentSettings, clock: Clock, *, showing: float = SHOWING) -> OwnIdentity:
    """The identity on disk, or a new one by joining. The server has `showing` seconds to learn of another pod."""
    file, joining_key = IdentityFile(settings.data_dir), JoiningKey(settings.data_dir)
    identity = await _in_this_pod(await asyncio.to_thread(kept_identity, settings), settings, clock, showing)
    if identity is None:
        joined = await _join(settings, clock, joining_key)
        identity = replace(joined, pod=await asyncio.to_thread(pod_of, settings))
        await asyncio.to_thread(file.save, identity)
    elif identity.svid.not_after <= clock.now():
        _log.warning(
            "the agent's own svid has ended, coming back with its recorded key",
            ended=identity.svid.not_after.isoformat(),
        )
    await asyncio.to_thread(joining_key.discard)
    _log.info("agent identity", spiffe_id=str(identity.svid.spiffe_id), serial=identity.svid.serial)
    return OwnIdentity(current=identity, file=file)


def kept_identity(settings: AgentSettings) -> AgentIdentity | None:
    """The identity on disk, where it is that of an agent here. Blocks; raises as `IdentityFile.load`."""
    identity = IdentityFile(settings.data_dir).load(settings.trust_domain)
    if identity is None or is_of_here(identity.svid.spiffe_id, settings, os.environ):
        return identity
    _log.warning(
        "the identity on disk is not that of this node and cluster, joining anew",
        spiffe_id=str(identity.svid.spiffe_id),
    )
    return None


async def _in_this_pod(
    kept: AgentIdentity | None, settings: AgentSettings, clock: Clock, showing: float
) -> AgentIdentity | None:
    """What was kept, known to the server as the agent of this pod where that can be; None where it is another one's."""
    pod, psat = await asyncio.to_thread(pod_of, settings), settings.join.k8s_psat
    if kept is None or psat is None or pod in {"", kept.pod} or not is_by_token(kept.svid.spiffe_id):
        return kept
    bootstrap = _bootstrap(settings, clock)
    shown = await shown_in(pod, kept, settings=settings, psat=psat, bootstrap=bootstrap, within=showing)
    if shown is not None and shown.svid.spiffe_id != kept.svid.spiffe_id:
        return None  # a copied disk: its key is that of another node, and a new one is made here
    return shown or kept


def returning(settings: AgentSettings, clock: Clock) -> Returning:
    """The way back once the identity has expired."""
    anew: Anew | None = None
    if (psat := settings.join.k8s_psat) is not None:
        anew = psat_anew(settings, psat)
    elif settings.join.x509pop.certificate_file is not None:
        anew = Anew(invitation=lambda given: replace(given, credential=_node_certificate(settings)))
    return Returning(bootstrap=_bootstrap(settings, clock), servers=settings.join.servers, anew=anew)


def check_can_join(settings: AgentSettings) -> None:
    """Raises what keeps an agent without an identity from joining. Blocks on the disk; sends nothing."""
    _invitation(settings)


async def _join(settings: AgentSettings, clock: Clock, joining_key: JoiningKey) -> AgentIdentity:
    in_kubernetes = settings.join.k8s_psat is not None
    invitation = None if in_kubernetes else await asyncio.to_thread(_invitation, settings)
    key = await asyncio.to_thread(joining_key.take)
    bootstrap = _bootstrap(settings, clock)

    async def once() -> AgentIdentity:
        given = invitation if invitation is not None else await asyncio.to_thread(_invitation, settings)
        return await bootstrap.join(given, key=key)

    initial, maximum = settings.reconnect.initial.total_seconds(), settings.reconnect.maximum.total_seconds()
    while_away, once_refused = wait_random_exponential(multiplier=initial, max=maximum), wait_random(*_AFTER_REFUSAL)
    attempts = AsyncRetrying(
        retry=retry_if_exception(may_pass if in_kubernetes else _is_away),
        wait=lambda state: (while_away if _is_away(_error(state)) else once_refused)(state),
        sleep=clock.sleep,
        before_sleep=_telling(clock),
        reraise=True,
    )
    return await attempts(once)


def _is_away(error: BaseException | None) -> bool:
    return isinstance(error, Unavailable | ResourceExhausted)


def _error(state: RetryCallState) -> BaseException | None:
    return state.outcome.exception() if state.outcome else None


def _bootstrap(settings: AgentSettings, clock: Clock) -> Bootstrap:
    return Bootstrap(trust_domain=settings.trust_domain, reconnect=settings.reconnect, clock=clock)


def _telling(clock: Clock) -> Callable[[RetryCallState], None]:
    repeated = Repeated(clock=clock)

    def tell(state: RetryCallState) -> None:
        error = _error(state)
        if isinstance(error, CitadelError) and repeated.is_news(error.reason):
            _log.warning("cannot join yet, trying again", reason=error.reason, error=str(error))

    return tell


def _invitation(settings: AgentSettings) -> Invitation:
    """What the operator gave to join with. Blocks on the disk."""
    if (psat := settings.join.k8s_psat) is not None:
        return psat_invitation(settings, psat)
    known_bundle, insecure = _known_bundle(settings), settings.join.insecure_bootstrap
    if settings.join.x509pop.certificate_file is not None:
        return Invitation(
            trust_domain=settings.trust_domain,
            servers=settings.join.servers,
            credential=_node_certificate(settings),
            known_bundle=known_bundle,
            insecure=insecure,
        )
    invitation = Invitation.of(_join_string(settings), known_bundle=known_bundle, insecure=insecure)
    return replace(invitation, servers=settings.join.servers or invitation.servers)


def _known_bundle(settings: AgentSettings) -> TrustBundle | None:
    path = settings.join.bundle_file
    return parse_bundle_file(settings.trust_domain, _read(path, "join.bundle_file")) if path is not None else None


def _node_certificate(settings: AgentSettings) -> NodeCertificate:
    """The machine's certificate and its key. Read anew for each use, since such certificates are renewed in place."""
    chain_file, key_file = settings.join.x509pop.certificate_file, settings.join.x509pop.key_file
    if chain_file is None or key_file is None:
        raise InvalidArgument(Reason.CONFIG_INVALID, "join.x509pop names no certificate")
    try:
        chain = x509.load_pem_x509_certificates(_read(chain_file, "join.x509pop.certificate_file"))
        own_key = chain[0].public_key()
    except (ValueError, UnsupportedAlgorithm) as error:
        raise InvalidArgument(
            Reason.CONFIG_INVALID, f"join.x509pop.certificate_file {chain_file} does not hold PEM certificates"
        ) from error
    try:
        key = load_pem(read_secret_file(key_file))
    except (TypeError, ValueError, UnsupportedAlgorithm):
        # Without the cause: its message could show a part of the key.
        raise InvalidArgument(
            Reason.CONFIG_INVALID, f"join.x509pop.key_file {key_file} does not hold an EC or RSA private key in PEM"
        ) from None
    if key.public_key() != own_key:
        raise InvalidArgument(
            Reason.CONFIG_INVALID,
            f"join.x509pop.key_file {key_file} is not the key of the first certificate in {chain_file}",
        )
    return NodeCertificate(chain=chain, key=key)


def _read(path: Path, setting: str) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise InvalidArgument(Reason.CONFIG_INVALID, f"{setting} {path} cannot be read: {error.strerror}") from error


def _join_string(settings: AgentSettings) -> JoinString:
    if (file := settings.join.string_file) is not None:
        # A byte that is not ASCII is in no join string, and refused as such.
        return _parsed(read_secret_file(file).decode("ascii", errors="replace"), f"join.string_file {file}")
    if text := os.environ.get(JOIN_STRING_VARIABLE):
        return _parsed(text, JOIN_STRING_VARIABLE)
    raise FailedPrecondition(
        Reason.CONFIG_INVALID,
        f"this agent has no identity in {settings.data_dir} and no join string to get one",
        fix=f"set join.string_file or {JOIN_STRING_VARIABLE} to what `citadel-cli token create` prints",
    )


def _parsed(text: str, place: str) -> JoinString:
    """The text may hold a token, and is never repeated."""
    try:
        return JoinString.parse(text)
    except InvalidArgument as error:
        problem = error.message if text.strip() else "it is empty"
        raise InvalidArgument(error.reason, f"{place}: {problem}", fix=error.fix) from error

"""The course of the demo, from an empty folder to the last line."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Callable, Coroutine, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final

import httpx

from citadel.config.files import write_private
from citadel.config.types import format_duration
from citadel.errors import CitadelError, Reason
from cli.demo.bookinfo import Productpage
from cli.demo.envoy import EnvoyAdmin
from cli.demo.intruder import attempt
from cli.demo.issuer import Issuer
from cli.demo.load import Load, Tally
from cli.demo.mesh import Mesh
from cli.demo.observe import Observer, Sighting
from cli.demo.plan import AGENT_NAME, TRUST_DOMAIN, Ending, Plan
from cli.demo.rotation import RootRotation, RootRotator
from cli.demo.screen import Screen
from cli.demo.vault import DemoVault
from cli.demo.verdict import Refusal, is_enough, problems
from cli.demo.visits import Visit, visit_all

_LOOK_SECONDS: Final = 0.25


async def run_demo(plan: Plan, screen: Screen, *, stop: asyncio.Event) -> Ending:
    """Run it, and leave it running until `stop` where the plan says so."""
    async with httpx.AsyncClient(timeout=5.0, trust_env=False) as client:
        issuer = Issuer(plan)
        vault = DemoVault(plan) if plan.vault else None
        mesh = Mesh(plan, client, issuer=issuer, vault=vault)
        try:
            _introduce(plan, screen)
            if not await _is_up(mesh, stop):
                return Ending.INTERRUPTED
            screen.say("The mesh is up. productpage calls reviews, a new TLS connection for each request, no retries:")
            onlooker = _Onlooker(plan, screen, mesh, client, stop)
            envoys = {each.name: EnvoyAdmin(client, each.admin_port) for each in (plan.productpage, plan.reviews)}
            rotator = RootRotator(mesh, envoys, tell=screen.tell)
            await _observe_load(plan, screen, onlooker, rotator)
            if stop.is_set():  # what is missing now was cut off, not broken
                return Ending.INTERRUPTED
            visits = await visit_all(plan, issuer)
            refusals = await _try_to_intrude(plan, client)
            found = problems(plan, onlooker.tally, onlooker.sightings, rotator.seen, visits, refusals)
            if vault is not None and await vault.signing_root() != rotator.seen.root:
                found.append("the new root is not the one that signs in OpenBao")
            _summarize(screen, onlooker.sightings, rotator.seen, visits, refusals, found)
            if plan.keep and not stop.is_set():
                write_private(plan.user_token, issuer.token("jason").encode())
                _say_how_to_look_around(plan, screen)
                if vault is not None:
                    _say_how_to_look_into(vault, screen)
                await stop.wait()
        finally:
            await mesh.stop()
    screen.say(f"demo: {onlooker.tally.done} requests, {onlooker.tally.failed} failed")
    return Ending.BROKEN if found else Ending.GOOD


async def _is_up(mesh: Mesh, stop: asyncio.Event) -> bool:
    """Bring up the mesh; false where the demo is stopped meanwhile, and it is broken off. Raises as `Mesh.start`."""
    starting, stopped = asyncio.ensure_future(mesh.start()), asyncio.ensure_future(stop.wait())
    try:
        await asyncio.wait((starting, stopped), return_when=asyncio.FIRST_COMPLETED)
    finally:
        for each in (starting, stopped):
            each.cancel()
        await asyncio.gather(starting, stopped, return_exceptions=True)
    if stop.is_set():
        return False
    starting.result()
    return True


class _Onlooker:
    """Shows the mesh as it is, again and again, while something is waited for."""

    def __init__(self, plan: Plan, screen: Screen, mesh: Mesh, client: httpx.AsyncClient, stop: asyncio.Event) -> None:
        self._plan = plan
        self._screen = screen
        self._mesh = mesh
        self._observer = Observer(plan, client)
        self._stop = stop
        self.tally = Tally()
        self.sightings: list[Sighting] = []

    @property
    def is_stopped(self) -> bool:
        """Whether the demo is to end."""
        return self._stop.is_set()

    async def look(self) -> None:
        """Look once. Raises `CitadelError` where a process has ended or an Envoy does not answer."""
        try:
            self.sightings = await self._observer.look()
        except httpx.HTTPError as error:
            self._mesh.check()  # most likely a process has ended: this says which one, and its last words
            raise CitadelError(Reason.INTERNAL, f"the admin page of an Envoy does not answer: {error}") from error

    async def until(self, holds: Callable[[], bool]) -> None:
        """Look on until it holds, or the demo is stopped."""
        while not self._stop.is_set() and not holds():
            self._mesh.check()
            self._screen.show(self._plan, self.tally, self.sightings)
            await asyncio.sleep(_LOOK_SECONDS)
            await self.look()

    async def during(self, work: Coroutine[None, None, None]) -> None:
        """Look on until the work is done; it is broken off where the demo is stopped."""
        task = asyncio.ensure_future(work)
        try:
            await self.until(task.done)
        finally:
            task.cancel()  # which changes nothing where it is done
            with suppress(asyncio.CancelledError):
                await task


async def _observe_load(plan: Plan, screen: Screen, onlooker: _Onlooker, rotator: RootRotator) -> None:
    """Certificates are rotated by themselves, then the root by us, and the load goes on all the time."""
    tally, enough = onlooker.tally, asyncio.Event()
    await onlooker.look()
    page = Productpage(sidecar_port=plan.productpage.listen_port)
    load = asyncio.ensure_future(Load(plan, tally, page).run(enough))
    try:
        async with asyncio.timeout(plan.most_seconds):
            await onlooker.until(lambda: is_enough(plan, tally, onlooker.sightings))
            if onlooker.is_stopped:
                return
            screen.say("The load goes on while the root is rotated, as `citadel-cli rotate root --window 0s` does it:")
            await onlooker.during(rotator.run())
            with_new_root = tally.done + plan.pace  # a second's worth
            await onlooker.until(lambda: tally.done >= with_new_root)
    except TimeoutError:
        screen.say(f"  the time of {plan.most_seconds:.0f} s is over")
    finally:
        enough.set()
        await load
    await onlooker.look()


async def _try_to_intrude(plan: Plan, client: httpx.AsyncClient) -> list[Refusal]:
    port = plan.reviews.listen_port
    return [
        Refusal(who="the sidecar without an entry", words=await _ask_as_stranger(plan, client)),
        Refusal(who="a caller without a certificate", words=await attempt(port, claims=None)),
        Refusal(
            who="a self-made certificate that claims to be productpage",
            words=await attempt(port, claims=plan.productpage.spiffe_id),
        ),
    ]


async def _ask_as_stranger(plan: Plan, client: httpx.AsyncClient) -> str:
    certificate = await EnvoyAdmin(client, plan.stranger.admin_port).certificate()
    if certificate:
        return ""
    try:
        answer = await client.get(f"http://127.0.0.1:{plan.stranger.listen_port}/reviews")
    except httpx.HTTPError:
        return "it got no certificate, so it does not even open its port"
    return "" if answer.is_success else f"it got no certificate, so its calls end with {answer.status_code}"


def _introduce(plan: Plan, screen: Screen) -> None:
    screen.say(f"Citadel demo in {plan.folder}: a server, an agent and three Envoys of trust domain {TRUST_DOMAIN}")
    if plan.vault:
        screen.say("The root is in an OpenBao, to which the server logs in by AppRole with the policy in deploy/vault.")
    if plan.as_root:
        screen.say("Each sidecar has a uid of its own, by which the agent knows it.")
    else:
        screen.say(
            "Not root, so every sidecar has your uid and is told apart by the path of its executable. This is for\n"
            "demonstration: it tells programs apart, not adversaries, since you could run any of them."
        )


def _summarize(
    screen: Screen,
    sightings: Sequence[Sighting],
    rotation: RootRotation,
    visits: Sequence[Visit],
    refusals: Sequence[Refusal],
    found: Sequence[str],
) -> None:
    screen.say("Summary:")
    for seen in sightings:
        screen.say(f"  {seen.name:<11} rotated {seen.rotations} times, {seen.handshakes} TLS handshakes")
    if rotation.is_done:
        moved = [name for name, roots in rotation.roots.items() if roots.own == roots.trusted == {rotation.root}]
        screen.say(f"  root        rotated in {rotation.seconds:.1f} s, the new one is {rotation.root}:")
        screen.say(f"              {' and '.join(moved) or 'nobody'} have certificates under it, and trust it alone")
    for visit in visits:
        if visit.seen.version:
            screen.say(f"  reviews {visit.seen.version}  for {visit.who}")
    for visit in visits:
        if visit.seen.refusal:
            screen.say(f"  refused: {visit.who} ({visit.seen.refusal})")
    for refusal in refusals:
        if refusal.words:
            screen.say(f"  refused: {refusal.who} ({refusal.words})")
    for problem in found:
        screen.say(f"  BROKEN: {problem}")


def _say_how_to_look_around(plan: Plan, screen: Screen) -> None:
    command = os.path.relpath(Path(sys.executable).with_name("citadel-cli"))
    ask = f"{command} --socket {plan.admin_socket}"
    life = format_duration(plan.leaf_lifetime)
    screen.say(f"It goes on running; Ctrl-C ends it. A certificate lives {life}. To look around:")
    screen.say(f"  {plan.folder}/*.log  the logs")
    for sidecar in plan.sidecars:
        screen.say(f"  http://127.0.0.1:{sidecar.admin_port}/certs  the Envoy of {sidecar.name} (also /stats)")
    screen.say(f"  curl http://127.0.0.1:{plan.productpage.listen_port}/reviews  call reviews through both Envoys")
    as_jason = f'--oauth2-bearer "$(cat {plan.user_token})"'
    screen.say(f"  curl {as_jason} http://127.0.0.1:{plan.productpage.listen_port}/reviews  the same as jason")
    screen.say(f"  {ask} status")
    screen.say(f"  {ask} entry list")
    screen.say(f"  {ask} bundle show")
    screen.say(f"  {ask} rotate root --plan  (without --plan it is done)")
    screen.say(f"  {ask} rotate history")
    screen.say(f"  curl http://127.0.0.1:{plan.stranger.listen_port}/  the port of the stranger")
    screen.say("  give the stranger an identity, and see its port open:")
    screen.say(
        f"  {ask} entry create --spiffe-id {plan.stranger.spiffe_id} "
        f"--parent-id {TRUST_DOMAIN.id}/citadel/agent/{AGENT_NAME} --selector {plan.stranger.selector}"
    )


def _say_how_to_look_into(vault: DemoVault, screen: Screen) -> None:
    screen.say("  the same in OpenBao, as its root:")
    screen.say(f"  export BAO_ADDR={vault.address} BAO_CACERT={vault.tls_file} BAO_TOKEN=$(cat {vault.root_token})")
    screen.say("  bao list -detailed pki/issuers")

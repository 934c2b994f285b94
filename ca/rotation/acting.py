"""What is done in each phase of a rotation. Done again after a crash, it changes nothing more (invariant 12)."""

from __future__ import annotations

from ca.api.server_identity import ServerIdentity
from ca.authority.manager import AuthorityManager
from ca.rotation.leaving import Leaving
from ca.rotation.mesh import Mesh
from ca.rotation.model import Phase, Rotation, RotationKind
from ca.rotation.orders import OrderBoard
from ca.steady import SteadyTime


class Acting:
    """Makes, activates and drops authorities, and gives out orders."""

    def __init__(
        self,
        *,
        authorities: AuthorityManager,
        identity: ServerIdentity,
        board: OrderBoard,
        leaving: Leaving,
        mesh: Mesh,
        time: SteadyTime,
    ) -> None:
        self._authorities = authorities
        self._identity = identity
        self._board = board
        self._leaving = leaving
        self._mesh = mesh
        self._time = time

    async def act(self, rotation: Rotation) -> None:
        """The act of the phase that this is in."""
        match rotation.phase:
            # Again when it is observed: after a long pause what was prepared is made anew, and then that is observed.
            case Phase.PREPARE | Phase.OBSERVE:
                await self._prepare(rotation)
            case Phase.ACTIVATE:
                await self._activate(rotation)
            case Phase.RENEW | Phase.DRAIN if rotation.kind is not RotationKind.JWT:  # tokens need no order: they end
                # It stays on the board when all is over: an agent that was away finds it when it comes back.
                scope = rotation.scope.agent
                self._board.give(self._leaving.order(rotation, agent=self._mesh.agent_id(scope) if scope else None))
            case Phase.RETIRE:
                await self._drop(rotation, *rotation.old_ids)
            case Phase.UNDO:
                await self._drop(rotation, rotation.new_id)
            case _:
                pass

    async def _prepare(self, rotation: Rotation) -> None:
        if rotation.kind is RotationKind.JWT:
            async with self._authorities.changing_jwt() as jwt:
                await jwt.prepare(rotation.new_id)
            return
        if self._authorities.prospects.can_mint():  # one that is near its end is better than none
            await self._authorities.drop_issuers(self._leaving.stale(rotation, self._time.latest()))
        if rotation.kind is RotationKind.ROOT:
            await self._authorities.prepare_root(rotation.new_id)
        else:
            await self._authorities.prepare_issuer(rotation.new_id)

    async def _activate(self, rotation: Rotation) -> None:
        if rotation.kind is RotationKind.JWT:
            if not self._authorities.jwt.is_usable(rotation.new_id):  # it ended while nobody went on
                await self._prepare(rotation)
            async with self._authorities.changing_jwt() as jwt:
                await jwt.activate(rotation.new_id, taints=rotation.is_emergency)
            return
        if rotation.kind is RotationKind.ROOT:
            await self._authorities.activate_root(rotation.new_id, taints=rotation.is_emergency)
        else:
            await self._authorities.activate_issuer(rotation.new_id)
        await self._identity.renew()

    async def _drop(self, rotation: Rotation, *authority_ids: str) -> None:
        match rotation.kind:
            case RotationKind.ROOT:
                await self._authorities.drop_roots(authority_ids)
            case RotationKind.JWT:
                async with self._authorities.changing_jwt() as jwt:
                    await jwt.drop(authority_ids)
            case _:
                await self._authorities.drop_issuers(authority_ids)

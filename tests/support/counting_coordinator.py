"""A coordinator that keeps which replica ran which tile; a replica imports this by name."""

from collections import Counter
from typing import Any

from cluster.spans import Carrier
from deployments.handles import HandleTileCoordinator
from deployments.stages import TileVelocity
from pipeline.denoising.work import VelocityRequest


class CountingCoordinator(HandleTileCoordinator):
    """Counts tiles by replica, a step at a time."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args, by_value="none")
        self._steps: dict[str, Counter[str]] = {}

    async def take_steps(self) -> list[Counter[str]]:
        """Return how many tiles of each step each replica ran, and forget them."""
        steps, self._steps = list(self._steps.values()), {}
        return steps

    async def _call(self, request: VelocityRequest, trace: Carrier) -> TileVelocity:
        tile = await super()._call(request, trace)
        step = request.id.rpartition("-")[0]
        self._steps.setdefault(step, Counter())[tile.replica] += 1
        return tile

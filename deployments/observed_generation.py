"""Generation that tells of each call; every way to ask for a picture goes through `draw`."""

import time
from typing import Any

from deployments.cached_generation import CachedGeneration
from deployments.call_observer import CallObserver, ObservedCall
from deployments.drawn_images import DrawnImages
from deployments.generation import (
    EventListener,
    Generation,
    ImagesOrder,
    RouteListener,
)
from deployments.pool_choice import Route
from pipeline.request import StepEvent


class ObservedGeneration(Generation):
    """Draws as `Generation` does, within a span, and closes what it opened whatever happens."""

    def __init__(self, *stages: Any, observer: CallObserver, **options: Any) -> None:
        super().__init__(*stages, **options)
        self._observer = observer

    async def draw(
        self,
        order: ImagesOrder,
        on_event: EventListener | None = None,
        on_route: RouteListener | None = None,
    ) -> DrawnImages:
        """Draw every picture of a call, or none; raises what `Generation.draw` raises."""
        with self._observer.observe(order) as call:

            async def accept(route: Route) -> None:
                await call.accept(route)
                if on_route is not None:
                    await on_route(route)

            drawn = await super().draw(order, _note_previews(call, on_event), accept)
            call.succeed(drawn)
        return drawn


class ObservedCachedGeneration(ObservedGeneration, CachedGeneration):
    """Tells of calls that the result cache answers, too."""


def _note_previews(call: ObservedCall, on_event: EventListener | None) -> EventListener | None:
    if on_event is None:
        return None

    async def note(index: int, event: StepEvent) -> None:
        if event.preview is not None:
            call.note_preview(time.monotonic())
        await on_event(index, event)

    return note

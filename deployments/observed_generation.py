"""Generation that tells of each call; every way to ask for a picture goes through `answer`."""

import asyncio
import time
from collections.abc import Callable
from typing import Any, TypeVar

from deployments.cached_generation import CachedGeneration
from deployments.call_observer import CallObserver, ObservedCall
from deployments.drawn_images import DrawnImages
from deployments.generation import (
    EventListener,
    Generation,
    ImagesOrder,
)
from pipeline.request import StepEvent

T = TypeVar("T")


class ObservedGeneration(Generation):
    """Answers as `Generation` does, within a span, and closes what it opened whatever happens."""

    def __init__(self, *stages: Any, observer: CallObserver, **options: Any) -> None:
        super().__init__(*stages, **options)
        self._observer = observer

    async def answer(
        self,
        order: ImagesOrder,
        to_answer: Callable[[DrawnImages], T],
        on_event: EventListener | None = None,
    ) -> T:
        """See `Generation.answer`; a call whose answer cannot be made has failed."""
        with self._observer.observe(order) as call:
            drawn = await self.draw(order, _note_previews(call, on_event), call.accept)
            answer = await asyncio.to_thread(to_answer, drawn)
            call.succeed(drawn)
        return answer


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

"""Models that take the time of the real ones on an H200 and compute nothing.

Everything around them is the service's own: step loop, deployments, router. They write down what
happens to whom.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Final, Self

import torch
from stage_log import StageLog
from torch import Tensor

from cluster.accelerators import Precision
from cluster.cost import Z_IMAGE
from cluster.profiles import H800
from cluster.scaling import ScalingPolicy
from deployments.cache_config import CacheConfig
from deployments.config import PoolConfig, ReplicaConfig, VaeDecoderConfig
from deployments.loading import StageLoader
from deployments.served_model import ServedModel, describe_model
from deployments.simulator.plans import PoolPlan, plan_pool
from deployments.simulator.stage_sizes import DECODE_MEGAPIXEL_S, DECODE_PICTURE_S, ENCODE_S
from pipeline.denoising.batching import BatchingLimits
from pipeline.denoising.captions import CaptionState
from pipeline.denoising.cost import ForwardCost
from pipeline.denoising.engine import StepLoop
from pipeline.denoising.preview import LatentPreview
from pipeline.denoising.transformer import PackedItem
from pipeline.denoising.work import Listener, Outcome
from pipeline.errors import CancelledError
from pipeline.request import PATCH_SIZE, DenoiseRequest, ImageSize, PromptEncoding, StepEvent
from pipeline.weights import EMBEDDED, resolve_weights

ENCODE_BEGUN: Final = "encode begun"
ENCODED: Final = "encoded"
ADMITTED: Final = "admitted"
STEP: Final = "step"
CANCEL: Final = "cancel"
"""The step loop was told that nobody waits any more, be it that all steps are done."""
LET_GO: Final = "let go"
DECODE_BEGUN: Final = "decode begun"
DECODED: Final = "decoded"

PACE: Final[PoolPlan] = plan_pool("H200", Precision.BF16, ScalingPolicy(1, 1), profile=H800)
ForwardTime = Callable[[Sequence[Tensor]], float]
"""Seconds of one forward of these latents, each [16, h, w]."""

_NUM_PROMPT_TOKENS: Final = 64
_PROMPT_DIM: Final = 2560
Z_IMAGE_LAYERS: Final = ForwardCost(dim=3840, num_layers=30, num_refiner_layers=2)


@dataclass(frozen=True)
class StageTimes:
    """Seconds of the stages around the step loop."""

    encode_s: float = ENCODE_S
    decode_picture_s: float = DECODE_PICTURE_S
    decode_megapixel_s: float = DECODE_MEGAPIXEL_S

    def decode_s(self, num_pixels: int) -> float:
        return self.decode_picture_s + self.decode_megapixel_s * num_pixels / 2**20

    def stretched(self, stretch: float) -> "StageTimes":
        return StageTimes(
            stretch * self.encode_s,
            stretch * self.decode_picture_s,
            stretch * self.decode_megapixel_s,
        )


class PacedTextEncoder:
    """See `pipeline.stages.TextEncoder`."""

    def __init__(self, times: StageTimes, log: StageLog) -> None:
        self._times = times
        self._log = log

    def encode(self, prompt: str) -> PromptEncoding:
        self._log.tell(ENCODE_BEGUN, prompt)
        time.sleep(self._times.encode_s)
        self._log.tell(ENCODED, prompt)
        return PromptEncoding(torch.zeros(_NUM_PROMPT_TOKENS, _PROMPT_DIM, dtype=torch.bfloat16))


def count_units(latents: Tensor, cost: ForwardCost = Z_IMAGE_LAYERS) -> float:
    """Return the cost units of a forward of [16, h, w]."""
    num_tokens = latents.shape[1] * latents.shape[2] // PATCH_SIZE**2
    return cost.units(num_tokens, _NUM_PROMPT_TOKENS)


def time_on_h200(items: Sequence[Tensor]) -> float:
    return PACE.forward_s(sum(map(count_units, items)))


class PacedTransformer:
    """The part of `PackedTransformer` that a step loop calls."""

    device: Final = torch.device("cpu")

    def __init__(self, forward_s: ForwardTime, cost: ForwardCost) -> None:
        self._forward_s = forward_s
        self.cost = cost

    def check_prompt(self, prompt_embeds: Tensor) -> None:
        assert prompt_embeds.shape[1] == _PROMPT_DIM

    def encode_caption(self, prompt_embeds: Tensor) -> CaptionState:
        return CaptionState(prompt_embeds, prompt_embeds.shape[0])

    def predict_velocity(self, items: Sequence[PackedItem]) -> list[Tensor]:
        time.sleep(self._forward_s([item.latents for item in items]))
        return [torch.zeros_like(item.latents) for item in items]

    def runs_apart(self, item: PackedItem) -> bool:
        return True

    def release_memory(self) -> None:
        """Nothing is kept."""


class LoggedStepLoop(StepLoop):
    """A step loop over a paced transformer."""

    def __init__(
        self,
        limits: BatchingLimits,
        log: StageLog,
        forward_s: ForwardTime = time_on_h200,
        cost: ForwardCost = Z_IMAGE_LAYERS,
    ) -> None:
        self._log = log
        self._seeds: dict[str, int] = {}
        transformer: Any = PacedTransformer(forward_s, cost)
        super().__init__(transformer, limits=limits, preview=LatentPreview.of_flux_vae())

    def submit(self, request: DenoiseRequest, listener: Listener) -> Any:
        self._seeds[request.id] = request.seed
        self._log.tell(ADMITTED, request.seed)
        return super().submit(request, partial(self._tell_of, request.seed, listener))

    def cancel(self, request_id: str) -> bool:
        self._log.tell(CANCEL, self._seeds.pop(request_id, ""))
        return super().cancel(request_id)

    def _tell_of(self, seed: int, listener: Listener, outcome: Outcome) -> None:
        if isinstance(outcome, StepEvent):
            self._log.tell(f"{STEP} {outcome.step}", seed)
        elif isinstance(outcome, CancelledError):
            self._log.tell(LET_GO, seed)
        listener(outcome)


class PacedVaeDecoder:
    """Decodes any latents to one grainy picture, which is as hard to encode as a photograph."""

    def __init__(self, times: StageTimes, log: StageLog) -> None:
        self._times = times
        self._log = log
        self._pictures: dict[tuple[int, int], Tensor] = {}

    def fingerprint(self, size: ImageSize) -> str:
        return "paced"

    def decode(self, latents: Tensor) -> Tensor:
        self._log.tell(DECODE_BEGUN)
        height, width = 8 * latents.shape[2], 8 * latents.shape[3]
        time.sleep(self._times.decode_s(height * width))
        if (height, width) not in self._pictures:
            self._pictures[height, width] = draw_grainy(height, width)
        self._log.tell(DECODED)
        return self._pictures[height, width]


@dataclass(frozen=True)
class PacedLoader(StageLoader):
    """Loads paced models, which write into a folder."""

    log: Path = Path()
    times: StageTimes = StageTimes()

    @classmethod
    def to_folder(cls, log: Path, times: StageTimes | None = None) -> Self:
        log.mkdir()
        return cls(resolve_weights(EMBEDDED, None), log, times or StageTimes())

    def describe(self) -> ServedModel:
        """Describe the real model, but for sides of 512 image pixels by default."""
        model = describe_model(self.weights, served_name="paced")
        return replace(
            model,
            default_size=ImageSize(512, 512),
            max_height=4096,
            max_width=4096,
            forward_cost=Z_IMAGE,
        )

    def cached_text_encoder(self, config: ReplicaConfig, cache: CacheConfig) -> Any:
        return PacedTextEncoder(self.times, StageLog(self.log))

    def denoiser(self, config: PoolConfig) -> tuple[StepLoop, str]:
        limits = config.step_loop.to_options().limits
        return LoggedStepLoop(limits, StageLog(self.log)), "full_image/paced"

    def vae_decoder(self, config: VaeDecoderConfig) -> Any:
        return PacedVaeDecoder(self.times, StageLog(self.log))


def draw_grainy(height: int, width: int) -> Tensor:
    """Draw [h, w, 3] uint8 pixels: slow waves, and grain of a camera's strength."""
    generator = torch.Generator().manual_seed(0)
    rows = torch.linspace(0, 9, height)[:, None, None]
    columns = torch.linspace(0, 7, width)[None, :, None]
    waves = 110 * torch.sin(rows + torch.arange(3.0)) * torch.cos(columns) + 128
    grain = 3 * torch.randn(height, width, 3, generator=generator)
    return (waves + grain).clamp(0, 255).to(torch.uint8)

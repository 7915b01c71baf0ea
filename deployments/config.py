"""The operator's configuration: one frozen, typed tree; unknown keys are errors."""

from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from deployments.bucket_config import BucketConfig, Prefix
from deployments.cache_config import CacheConfig
from deployments.calls_config import CallsConfig
from deployments.config_section import Section
from deployments.jobs_config import JobsConfig, WebhooksConfig
from deployments.kernel_cache_config import KernelCacheConfig
from deployments.keys_config import KeysConfig
from deployments.routing_config import RoutingConfig
from deployments.telemetry_config import TelemetryConfig, UsageConfig
from pipeline.acceleration.options import AccelerationOptions
from pipeline.denoising.batching import BatchingLimits
from pipeline.denoising.options import StepLoopOptions
from pipeline.device import DeviceName
from pipeline.memory import DecodeMode
from pipeline.request import SIZE_MULTIPLE, ImageSize, RenderPath
from pipeline.tiled_passes import TilingOptions
from pipeline.tiling import TilePositions
from pipeline.weights import EMBEDDED


class ModelConfig(Section):
    """Which model is served."""

    source: str = Field(
        default=EMBEDDED,
        description="`embedded`, a folder in diffusers' layout, or an id of the Hugging Face hub.",
    )
    revision: str | None = Field(
        default=None, description="Branch, tag or commit of a hub id; its default branch if unset."
    )
    served_name: str | None = Field(
        default=None, description="The name that callers use; the source if unset."
    )


class LimitsConfig(Section):
    """What a caller may ask for; anything above is refused with the limit in the message."""

    min_side: int = Field(
        default=64,
        ge=SIZE_MULTIPLE,
        multiple_of=SIZE_MULTIPLE,
        description="Smallest side, in image pixels.",
    )
    max_pixels: int = Field(default=2048 * 2048, gt=0, description="Largest area, in image pixels.")
    max_prompt_bytes: int = Field(default=8192, gt=0, description="Longest prompt, in UTF-8.")
    max_body_bytes: int = Field(
        default=2**20, gt=0, description="Largest body of `/v1/images/generations`."
    )
    body_timeout_s: float = Field(
        default=30.0, gt=0, description="Seconds in which a body must have arrived."
    )

    @model_validator(mode="after")
    def _smallest_picture_is_allowed(self) -> Self:
        if self.min_side**2 > self.max_pixels:
            raise ValueError(
                f"max_pixels must be at least min_side squared, got {self.max_pixels} and "
                f"min_side {self.min_side}"
            )
        return self


class ScalingConfig(Section):
    """How replicas between the two bounds follow the work."""

    target_utilization: float = Field(
        default=0.8, gt=0, le=1, description="Share of its time that a replica should be busy."
    )
    target_backlog_s: float = Field(
        default=2.0, gt=0, description="Seconds of work that a replica may hold before more come."
    )
    drain_s: float = Field(
        default=10.0, gt=0, description="How soon work above that should be done."
    )
    down_delay_s: float = Field(
        default=300.0, ge=0, description="How long less must be wanted before replicas go."
    )
    to_zero_delay_s: float = Field(
        default=900.0, ge=0, description="How long nothing must be wanted before the last one goes."
    )


class ReplicaConfig(Section):
    """Replicas of one deployment, and what each of them occupies."""

    min_replicas: int = Field(default=1, ge=0, description="Fewest replicas.")
    max_replicas: int = Field(default=1, ge=1, description="Most replicas.")
    target_ongoing_requests: float = Field(
        default=2.0, gt=0, description="Requests that one replica of a stage should have at once."
    )
    scaling: ScalingConfig = ScalingConfig()
    max_ongoing_requests: int = Field(
        default=16, ge=1, description="Requests that a replica holds before it refuses."
    )
    num_cpus: float = Field(
        default=0.25, ge=0, description="CPUs that Ray reserves for a replica; not a limit."
    )
    num_gpus: float = Field(default=0.0, ge=0, description="GPUs a replica; a fraction is shared.")
    num_threads: int | None = Field(
        default=None,
        ge=1,
        description="Threads of one operation on the CPU; all cores if unset.",
    )
    device: DeviceName = Field(
        default="auto", description="`auto` takes the GPU that Ray assigned, else the CPU."
    )
    profile: Literal["cpu", "consumer-16gb", "h800"] = Field(
        default="cpu", description="The kind of card: how much memory a replica may use."
    )
    memory_gib: float | None = Field(
        default=None,
        gt=0,
        description="Most GPU memory of a replica; the profile's, times `num_gpus`, if unset.",
    )
    label_selector: dict[str, str] = Field(
        default_factory=dict, description="Ray node labels that a replica needs."
    )
    graceful_shutdown_timeout_s: float = Field(
        default=180.0, ge=0, description="Seconds that a stopping replica has to finish its work."
    )

    @model_validator(mode="after")
    def _bounds_are_ordered(self) -> Self:
        if self.min_replicas > self.max_replicas:
            raise ValueError(
                f"min_replicas must be at most max_replicas, got {self.min_replicas} and "
                f"{self.max_replicas}"
            )
        return self


KernelNames = Literal["auto", "modules", "fused"]
WarmSize = Annotated[str, Field(pattern=r"^[0-9]{2,5}x[0-9]{2,5}$")]


def _parse_warm_sizes(texts: tuple[str, ...]) -> tuple[ImageSize, ...]:
    """Read `WIDTHxHEIGHT`s.

    Raises:
        ValueError: Naming the size.
    """
    pairs = [tuple(map(int, text.split("x"))) for text in texts]
    for text, sides in zip(texts, pairs, strict=True):
        if any(side <= 0 or side % SIZE_MULTIPLE for side in sides):
            raise ValueError(f"sides of warm_sizes must divide by {SIZE_MULTIPLE}, got {text}")
    return tuple(ImageSize(height, width) for width, height in pairs)


PrecisionNames = Literal["auto", "float8", "int8", "int8_weights"]


class TextEncoderConfig(ReplicaConfig):
    """The text encoders."""

    kernels: KernelNames = Field(
        default="auto", description="`fused` layers, `modules`, or what was measured to be best."
    )
    precision: PrecisionNames = Field(
        default="auto",
        description="`float8`, `int8` and `int8_weights` halve the weights, and change pictures.",
    )

    def to_options(self) -> AccelerationOptions:
        """Return what the pipeline takes."""
        return AccelerationOptions(self.kernels, self.precision)


class StepLoopConfig(Section):
    """How a denoiser replica shares its device among requests."""

    attention: Literal["auto", "sdpa", "cudnn", "flash4", "varlen", "xformers"] = Field(
        default="auto", description="The attention kernel; one that cannot run is an error."
    )
    kernels: KernelNames = Field(
        default="auto", description="`fused` blocks, `modules`, or what was measured to be best."
    )
    precision: PrecisionNames = Field(
        default="auto",
        description="`float8`, `int8` and `int8_weights` halve the weights, and change pictures.",
    )
    bfloat16_layers: tuple[str, ...] = Field(
        default=(), description="With 8 bits: patterns of what stays, as `*.attention.to_out`."
    )
    strict: bool = Field(
        default=True, description="A picture has the same bytes whatever it is batched with."
    )
    step_units: float = Field(
        default=8.0, gt=0, description="Work of one step, in cost units: how long others wait."
    )
    max_items: int = Field(default=16, ge=1, description="Requests that share one step.")
    held_units: float = Field(
        default=512.0, gt=0, description="Work that a replica accepts before it refuses."
    )

    def to_options(self) -> StepLoopOptions:
        """Return what the pipeline takes."""
        limits = BatchingLimits(
            step_units=self.step_units, max_items=self.max_items, held_units=self.held_units
        )
        acceleration = AccelerationOptions(self.kernels, self.precision, self.bfloat16_layers)
        return StepLoopOptions(self.attention, self.strict, limits, acceleration)


class TilingConfig(Section):
    """How the tiled path cuts a picture. Pictures of one tile are drawn whole."""

    tile_size: int = Field(default=96, gt=0, description="Largest side of a tile, latent pixels.")
    overlap: int = Field(
        default=16, ge=0, description="Latent pixels that neighbouring tiles share at least."
    )
    positions: Literal["true", "local", "compressed"] = Field(
        default="true", description="Where a tile's positions begin: its true place, or 0."
    )
    start_sigma: float = Field(
        default=0.5, description="Where tiles take over from the base pass; 1 is no base pass."
    )
    base_steps: int | None = Field(
        default=None, description="Steps of the base pass; those above `start_sigma` if unset."
    )
    base_max_pixels: int = Field(
        default=768 * 768, description="Area of the base pass, in image pixels."
    )

    def to_options(self) -> TilingOptions:
        """Return what the pipeline takes.

        Raises:
            ValueError: If a setting is out of range.
        """
        return TilingOptions(
            tile_size=self.tile_size,
            overlap=self.overlap,
            positions=TilePositions(self.positions),
            start_sigma=self.start_sigma,
            base_steps=self.base_steps,
            base_max_pixels=self.base_max_pixels,
        )

    @model_validator(mode="after")
    def _options_are_in_range(self) -> Self:
        self.to_options()
        return self


class VaeDecoderConfig(ReplicaConfig):
    """The VAE decoders."""

    mode: DecodeMode = Field(
        default=DecodeMode.AUTO,
        description="`full_image`, `tiled`, or `auto`: in tiles where the whole does not fit.",
    )
    kernels: KernelNames = Field(
        default="auto", description="`fused` kernels, `modules`, or what was measured to be best."
    )
    warm_sizes: tuple[WarmSize, ...] = Field(
        default=(), description="`WIDTHxHEIGHT`s that a replica decodes before it takes work."
    )

    def to_warm_sizes(self) -> tuple[ImageSize, ...]:
        """Return what is decoded at start."""
        return _parse_warm_sizes(self.warm_sizes)

    @model_validator(mode="after")
    def _warm_sizes_can_be_decoded(self) -> Self:
        self.to_warm_sizes()
        return self


class PoolConfig(ReplicaConfig):
    """Denoisers of one kind."""

    name: str = Field(
        default="default",
        pattern=r"^[a-z0-9]([a-z0-9-]{0,30}[a-z0-9])?$",
        description="Names the pool in answers, metrics and deployments.",
    )
    path: RenderPath = Field(
        default=RenderPath.FULL_IMAGE, description="How this pool renders: `full_image` or `tiled`."
    )
    accelerator: str | None = Field(
        default=None,
        description="Ray's name of the card, for a first guess at its speed; by profile if unset.",
    )
    max_pixels: int | None = Field(
        default=None,
        gt=0,
        description="Its largest picture; `limits.max_pixels` if unset.",
    )
    start_up_s: float = Field(
        default=60.0, gt=0, description="Seconds from nothing to a replica that takes work."
    )
    max_ongoing_requests: int = Field(
        default=256, ge=1, description="Requests that a replica holds; its work is bounded too."
    )
    warm_sizes: tuple[WarmSize, ...] = Field(
        default=(), description="`WIDTHxHEIGHT`s that a replica draws before it takes work."
    )
    step_loop: StepLoopConfig = StepLoopConfig()
    tiling: TilingConfig = TilingConfig()
    num_coordinators: int = Field(
        default=1, ge=1, description="Replicas that step the canvases of a `tiled` pool."
    )

    def to_warm_sizes(self) -> tuple[ImageSize, ...]:
        """Return what is drawn at start."""
        return _parse_warm_sizes(self.warm_sizes)

    @model_validator(mode="after")
    def _warm_sizes_can_be_drawn(self) -> Self:
        for size in self.to_warm_sizes():
            if self.max_pixels is not None and size.height * size.width > self.max_pixels:
                raise ValueError(
                    f"warm_sizes must have at most max_pixels={self.max_pixels} pixels, got {size}"
                )
        return self


class RouterConfig(Section):
    """The HTTP ingress."""

    num_replicas: int = Field(default=1, ge=1, description="Router replicas; not autoscaled.")
    num_cpus: float = Field(default=0.25, ge=0, description="CPUs that Ray reserves for each.")
    max_ongoing_requests: int = Field(
        default=256, ge=1, description="Calls that one router replica holds at once."
    )
    label_selector: dict[str, str] = Field(
        default_factory=dict, description="Ray node labels that a router replica needs."
    )
    default_timeout_s: float = Field(
        default=60.0, gt=0, description="Deadline of a synchronous call that names none."
    )
    warm_up_timeout_s: float = Field(
        default=600.0, gt=0, description="How long the first picture of a pool may take."
    )
    waits_for_picture: bool = Field(
        default=False,
        description="Take calls only once a picture has come out, so that a roll-out waits for it.",
    )
    graceful_shutdown_timeout_s: float = Field(
        default=180.0, ge=0, description="Seconds that a stopping router has to finish its calls."
    )
    heartbeat_s: float = Field(
        default=5.0, gt=0, description="Longest silence of a stream, then a comment is sent."
    )
    stall_timeout_s: float = Field(
        default=60.0, gt=0, description="How long a stream's reader may take nothing, then it ends."
    )


class FolderStoreConfig(Section):
    """Pictures in a folder; the router serves them at signed URLs."""

    kind: Literal["folder"] = "folder"
    path: Path = Field(default=Path("zimage-images"), description="The folder.")
    prefix: Prefix = Field(default="images", description="First part of every key.")
    base_url: str = Field(
        default="http://127.0.0.1:8000", description="Where callers reach the router."
    )
    url_lifetime_s: int = Field(
        default=3600, gt=0, le=604_800, description="Seconds that a URL works, at most 7 days."
    )


class S3StoreConfig(BucketConfig):
    """Pictures in S3."""

    kind: Literal["s3"]
    max_connections: int = Field(
        default=32, ge=1, description="Uploads that a router runs at once."
    )
    max_attempts: int = Field(default=4, ge=1, description="Tries of one upload.")
    connect_timeout_s: float = Field(default=3.0, gt=0, description="Seconds to connect.")
    read_timeout_s: float = Field(default=20.0, gt=0, description="Seconds to wait for an answer.")
    url_lifetime_s: int = Field(
        default=3600, gt=0, le=604_800, description="Seconds that a presigned URL works."
    )


StoreConfig = Annotated[FolderStoreConfig | S3StoreConfig, Field(discriminator="kind")]


class AppConfig(Section):
    """The whole application."""

    model: ModelConfig = ModelConfig()
    limits: LimitsConfig = LimitsConfig()
    router: RouterConfig = RouterConfig()
    calls: CallsConfig = CallsConfig()
    text_encoder: TextEncoderConfig = TextEncoderConfig()
    pools: tuple[PoolConfig, ...] = Field(
        default=(PoolConfig(),), description="The denoisers, a pool a kind of GPU."
    )
    vae_decoder: VaeDecoderConfig = VaeDecoderConfig()
    routing: RoutingConfig = RoutingConfig()
    store: StoreConfig = FolderStoreConfig()
    keys: KeysConfig = KeysConfig()
    cache: CacheConfig = CacheConfig()
    kernel_cache: KernelCacheConfig = KernelCacheConfig()
    jobs: JobsConfig = JobsConfig()
    webhooks: WebhooksConfig = WebhooksConfig()
    telemetry: TelemetryConfig = TelemetryConfig()
    usage: UsageConfig = UsageConfig()

    @model_validator(mode="before")
    @classmethod
    def _store_is_a_folder_unless_said(cls, values: Any) -> Any:
        if isinstance(values, dict) and isinstance(values.get("store"), dict):
            return {**values, "store": {"kind": "folder", **values["store"]}}
        return values

    @model_validator(mode="after")
    def _routers_count_quotas_together(self) -> Self:
        if self.keys.file and not self.keys.redis_url and self.router.num_replicas > 1:
            raise ValueError(
                "keys.redis_url must be set where router.num_replicas is above 1, "
                f"got {self.router.num_replicas}"
            )
        return self

    @model_validator(mode="after")
    def _what_may_be_lost_has_a_redis_of_its_own(self) -> Self:
        lasting = {"keys.redis_url": self.keys.redis_url}
        if self.jobs.store.kind == "redis":
            lasting["jobs.store.url"] = self.jobs.store.url
        for name, url in lasting.items():
            if url is not None and url == self.cache.redis_url:
                raise ValueError(
                    f"cache.redis_url must be another than {name}: one forgets, one must not"
                )
        return self

    @model_validator(mode="after")
    def _pools_draw_the_smallest_picture(self) -> Self:
        for index, pool in enumerate(self.pools):
            if pool.max_pixels is not None and pool.max_pixels < self.limits.min_side**2:
                raise ValueError(
                    f"pools.{index}.max_pixels must be at least limits.min_side squared, "
                    f"got {pool.max_pixels} and limits.min_side {self.limits.min_side}"
                )
        return self

    @model_validator(mode="after")
    def _pool_names_differ(self) -> Self:
        names = [pool.name for pool in self.pools]
        if not names:
            raise ValueError("pools must hold at least one pool, got none")
        if len(set(names)) < len(names):
            raise ValueError(f"names of pools must differ, got {names}")
        return self

"""The operator's configuration of `choose_path`."""

from pydantic import Field

from deployments.config_section import Section
from deployments.routing.paths import RoutingPolicy


class RoutingConfig(Section):
    """Which pool draws a picture where several could."""

    small_pixels: int = Field(
        default=RoutingPolicy.small_pixels,
        gt=0,
        description="Largest picture that is meant for the smallest cards; larger ones are meant "
        "for the biggest.",
    )
    interactive_patience: float = Field(
        default=RoutingPolicy.interactive_patience,
        ge=0,
        description="How much more than elsewhere a picture may cost on the cards meant for it, in "
        "multiples of its own time there; 0 minds the cost only.",
    )
    batch_patience: float = Field(
        default=RoutingPolicy.batch_patience, ge=0, description="The same, of batch requests."
    )
    crowding_units: float = Field(
        default=RoutingPolicy.crowding_units,
        gt=0,
        description="Cost units that delay one other request in a busy pool: half of what one "
        "costs on average; the more, the less the delay of others counts.",
    )
    max_slowdown: float = Field(
        default=RoutingPolicy.max_slowdown,
        ge=1,
        description="Small interactive work passes over cards so many times slower than the best.",
    )
    stickiness: float = Field(
        default=RoutingPolicy.stickiness,
        gt=0,
        le=1,
        description="What was chosen last must be undercut by this factor.",
    )

    def to_policy(self) -> RoutingPolicy:
        """Return what `choose_path` takes."""
        return RoutingPolicy(**self.model_dump())

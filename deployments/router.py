"""The ingress: joins the HTTP contract to the stages behind their handles."""

from collections.abc import Mapping
from typing import Any

import ray
from ray.serve.handle import DeploymentHandle
from starlette.types import ASGIApp

from deployments.config import AppConfig
from deployments.handles import HandleStages
from deployments.image_api import build_api
from deployments.jobs.record_stores import check_nodes
from deployments.readiness import Readiness
from deployments.served_model import ServedModel


class RouterDeployment:
    """Takes HTTP and routes each request to a pool."""

    def __init__(
        self,
        config: AppConfig,
        model: ServedModel,
        text_encoder: DeploymentHandle[Any],
        denoisers: Mapping[str, DeploymentHandle[Any]],
        vae_decoder: DeploymentHandle[Any],
    ) -> None:
        check_nodes(config, ray.nodes())  # type: ignore[no-untyped-call]  # Ray's is untyped
        stages = HandleStages(text_encoder, denoisers, vae_decoder)
        self._readiness = Readiness(
            stages, tuple(denoisers), timeout_s=config.router.warm_up_timeout_s
        )
        self._api = build_api(config, model, stages, self._readiness)

    def __serve_build_asgi_app__(self) -> ASGIApp:
        """Return what Serve sends HTTP to; Serve calls this inside the replica's event loop."""
        return self._api

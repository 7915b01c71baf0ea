"""The ingress: joins the HTTP contract to the stages behind their handles."""

import os
from collections.abc import Mapping
from typing import Any

import ray
from ray import serve
from ray.serve.handle import DeploymentHandle
from starlette.types import ASGIApp

from deployments.calls_config import check_message_limit
from deployments.config import AppConfig
from deployments.handles import HandleStages
from deployments.image_api import build_api
from deployments.jobs.record_stores import check_nodes
from deployments.ledger_actor import LedgerReader
from deployments.pool_choice import LedgerPoolChooser
from deployments.pools import to_known_pool
from deployments.process_telemetry import start_replica_telemetry
from deployments.readiness import Readiness
from deployments.redis_checks import check_jobs
from deployments.served_model import ServedModel
from deployments.trace_middleware import TraceMiddleware
from deployments.usage_ledger import build_usage_ledger


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
        check_message_limit(config.calls, os.environ)
        # The jobs' own start does so too, but of what fails there Serve tells nothing.
        check_jobs(config)
        start_replica_telemetry(config.telemetry, None)
        usage = build_usage_ledger(config.usage, model)
        stages = HandleStages(text_encoder, denoisers, vae_decoder, by_value=config.calls.by_value)
        chooser = LedgerPoolChooser(
            [to_known_pool(pool, config, model) for pool in config.pools],
            config.routing.to_policy(),
            router_id=serve.get_replica_context().replica_id.unique_id,
        )
        readiness = Readiness(
            stages,
            tuple(denoisers),
            timeout_s=config.router.warm_up_timeout_s,
            holds_start=config.router.waits_for_picture,
        )
        ledger = LedgerReader(chooser.read_demand, chooser.update)
        background = [ledger.run] if usage is None else [ledger.run, usage.run]
        self._api = TraceMiddleware(
            build_api(
                config,
                model,
                stages,
                chooser,
                readiness,
                background=background,
                usage=usage,
                read_fingerprints=chooser.fingerprints,
            )
        )

    def __serve_build_asgi_app__(self) -> ASGIApp:
        """Return what Serve sends HTTP to; Serve calls this inside the replica's event loop."""
        return self._api

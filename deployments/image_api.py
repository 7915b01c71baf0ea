"""Builds the HTTP application out of its parts, wherever the stages run."""

from collections.abc import Callable, Coroutine, Sequence
from functools import partial
from typing import Any

from fastapi import FastAPI

from cluster.storage import FolderImageStore, ImageStore
from deployments.call_observer import CallObserver
from deployments.config import AppConfig
from deployments.files import SignedFiles
from deployments.http_api import ImagesApi
from deployments.jobs.composition import build_jobs
from deployments.jobs.record_stores import build_record_store
from deployments.observed_generation import ObservedGeneration
from deployments.observed_store import ObservedStore
from deployments.pool_choice import PoolChooser
from deployments.readiness import Readiness
from deployments.served_model import ServedModel
from deployments.stages import Stages
from deployments.stores import build_store
from deployments.usage_ledger import UsageLedger
from deployments.validation import RequestRules


def build_api(
    config: AppConfig,
    model: ServedModel,
    stages: Stages,
    chooser: PoolChooser,
    readiness: Readiness,
    background: Sequence[Callable[[], Coroutine[Any, Any, None]]] = (),
    usage: UsageLedger | None = None,
) -> FastAPI:
    """Build the application; what is in `background` runs as long as it does."""
    store = build_store(config.store)
    rules = RequestRules.from_config(config, model)
    return ImagesApi(
        ObservedGeneration(
            stages,
            chooser,
            ObservedStore(store),
            model,
            key_prefix=config.store.prefix,
            observer=CallObserver(model, usage),
        ),
        rules,
        readiness,
        _signed_files(store),
        url_lifetime_s=config.store.url_lifetime_s,
        build_jobs=partial(build_jobs, config, rules, store, build_record_store(config)),
        background=background,
    ).build()


def _signed_files(store: ImageStore) -> SignedFiles | None:
    return SignedFiles(store) if isinstance(store, FolderImageStore) else None

"""Builds the HTTP application out of its parts, wherever the stages run."""

from functools import partial

from fastapi import FastAPI

from cluster.storage import FolderImageStore, ImageStore
from deployments.config import AppConfig
from deployments.files import SignedFiles
from deployments.generation import Generation
from deployments.http_api import ImagesApi
from deployments.jobs.composition import build_jobs
from deployments.jobs.record_stores import build_record_store
from deployments.readiness import Readiness
from deployments.served_model import ServedModel
from deployments.stages import Stages
from deployments.stores import build_store
from deployments.validation import RequestRules


def build_api(
    config: AppConfig, model: ServedModel, stages: Stages, readiness: Readiness
) -> FastAPI:
    """Build the application."""
    store = build_store(config.store)
    rules = RequestRules.from_config(config, model)
    return ImagesApi(
        Generation(stages, store, model, key_prefix=config.store.prefix),
        rules,
        readiness,
        _signed_files(store),
        url_lifetime_s=config.store.url_lifetime_s,
        build_jobs=partial(build_jobs, config, rules, store, build_record_store(config)),
    ).build()


def _signed_files(store: ImageStore) -> SignedFiles | None:
    return SignedFiles(store) if isinstance(store, FolderImageStore) else None

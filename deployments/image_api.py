"""Builds the HTTP application out of its parts, wherever the stages run."""

from collections.abc import Callable, Coroutine, Sequence
from functools import partial
from typing import Any

from fastapi import FastAPI

from cluster.storage import FolderImageStore, ImageStore
from deployments.admission import Admission
from deployments.afterwards import Afterwards
from deployments.cache_config import CacheConfig
from deployments.call_observer import CallObserver
from deployments.config import AppConfig
from deployments.files import SignedFiles
from deployments.generation import Generation
from deployments.http_api import ImagesApi
from deployments.jobs.composition import build_jobs
from deployments.jobs.record_stores import build_record_store
from deployments.keys import KeyRing
from deployments.keys_config import KeysConfig
from deployments.memory_plan import memory_of
from deployments.observed_generation import ObservedCachedGeneration, ObservedGeneration
from deployments.observed_store import ObservedStore
from deployments.pool_choice import PoolChooser
from deployments.quota_stores import MemoryQuotaStore, RedisQuotaStore
from deployments.readiness import Readiness
from deployments.redis_url import read_redis_url
from deployments.result_cache import LocalResultIndex, ResultCache
from deployments.served_model import ServedModel
from deployments.shared_cache import open_shared_cache
from deployments.stages import Stages
from deployments.store_threads import StoreThreads
from deployments.stores import build_store, build_store_threads
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
    read_fingerprints: Callable[[], frozenset[str]] = frozenset,
) -> FastAPI:
    """Build the application; what is in `background` runs as long as it does.

    `read_fingerprints` says which fingerprints the replicas have that serve now.
    """
    store, threads = build_store(config.store), build_store_threads(config.store)
    rules = RequestRules.from_config(config, model)
    admission = _build_admission(config.keys)
    afterwards = Afterwards()
    observer = CallObserver(model, usage, afterwards)
    results = _open_results(config.cache, read_fingerprints)
    generation = _build_generation(
        config, model, stages, chooser, store, threads, observer, results
    )
    closing = [admission.run] if results is None else [admission.run, results.run]
    return ImagesApi(
        generation,
        rules,
        readiness,
        _signed_files(store, threads),
        url_lifetime_s=config.store.url_lifetime_s,
        keys=_load_keys(config.keys),
        admission=admission,
        build_jobs=partial(
            build_jobs, config, rules, admission, store, threads, build_record_store(config)
        ),
        background=[afterwards.run, *closing, *background],
    ).build()


def _build_generation(
    config: AppConfig,
    model: ServedModel,
    stages: Stages,
    chooser: PoolChooser,
    store: ImageStore,
    threads: StoreThreads,
    observer: CallObserver,
    results: ResultCache | None,
) -> Generation:
    parts = (stages, chooser, ObservedStore(store), model)
    prefix = config.store.prefix
    if results is None:
        return ObservedGeneration(*parts, threads=threads, key_prefix=prefix, observer=observer)
    return ObservedCachedGeneration(
        *parts,
        threads=threads,
        key_prefix=prefix,
        observer=observer,
        results=results,
        other_stages=_name_other_stages(config),
    )


def _name_other_stages(config: AppConfig) -> str:
    encoder, decoder = config.text_encoder, config.vae_decoder
    encoding = f"{encoder.kernels}/{encoder.precision}"
    return f"{encoding}/{decoder.mode}/{decoder.kernels}/{memory_of(decoder)}"


def _signed_files(store: ImageStore, threads: StoreThreads) -> SignedFiles | None:
    return SignedFiles(store, threads) if isinstance(store, FolderImageStore) else None


def _load_keys(config: KeysConfig) -> KeyRing | None:
    if config.file is None:
        return None
    return KeyRing(config.file, reload_period_s=config.reload_period_s)


def _build_admission(config: KeysConfig) -> Admission:
    if config.redis_url is None:
        return Admission(MemoryQuotaStore())
    return Admission(RedisQuotaStore(read_redis_url(config.redis_url)))


def _open_results(
    config: CacheConfig, read_fingerprints: Callable[[], frozenset[str]]
) -> ResultCache | None:
    if not config.results:
        return None
    index = open_shared_cache(config) or LocalResultIndex(config.result_bytes)
    return ResultCache(index, read_fingerprints)

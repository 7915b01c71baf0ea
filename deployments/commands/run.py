"""`zimage-serve run`: the whole service on this machine, until Ctrl-C."""

import argparse
import contextlib
import signal
import socket
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from types import FrameType
from typing import Any, Final

import httpx
from ray import serve
from ray.exceptions import RayError
from ray.serve import Application
from ray.serve.config import HTTPOptions, ProxyLocation
from ray.serve.schema import ApplicationStatus, LoggingConfig

from cluster.errors import ClusterError, RecordStoreUnavailableError
from deployments.app import build_app
from deployments.commands.cluster import check_address, ray_cluster, shut_down_serve
from deployments.commands.draining import drain_calls
from deployments.commands.exposure import check_exposure, warn_of_urls
from deployments.commands.failure import tell_failure
from deployments.commands.machine import local_defaults
from deployments.commands.mixed_nodes import mixed_defaults
from deployments.commands.options import to_config
from deployments.commands.ray_watch import RayWatch, watch_ray
from deployments.commands.start_failures import explain_failure
from deployments.commands.tour import show_tour
from deployments.config import AppConfig
from deployments.config_file import ConfigurationError, merge
from deployments.http_api import GENERATIONS
from deployments.keys_config import KeysConfig
from deployments.redis_checks import check_cache, check_jobs, check_quotas
from deployments.stores import check_store
from pipeline.errors import PipelineError

APPLICATION: Final = "zimage"
_POLL_S: Final = 0.5
_DRAIN_S: Final = 10.0
_SHUT_DOWN_S: Final = 5.0
_ANY_ADDRESS: Final = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}


def run_service(options: argparse.Namespace) -> int:
    """Start everything, print how to try it, and serve until a signal comes."""
    url = f"http://{to_url_host(options.host)}:{options.port}"
    try:
        if options.address is not None:
            check_address(options.address)
        config = to_config(options, defaults=_defaults(options, url))
        check_exposure(options.host, config.keys, insecure_no_keys=options.insecure_no_keys)
        _check_port(options.host, options.port)
        if options.address is None:
            # Of a cluster that is joined, another machine may reach them and this one not.
            _check_stores(config)
        _warn(options.host, url, config)
        application = build_app(config)
        cluster = ray_cluster(options.address, options.metrics_port, is_mixed=options.mixed)
        with cluster, _stop_signals() as signals, watch_ray(signals.stop) as watch:
            failure = _serve(application, config, options, url, signals, watch)
    except (ConfigurationError, PipelineError, ClusterError, OSError, RayError) as exc:
        failure = str(exc)
    if failure is not None:
        tell_failure(failure)
    return 0 if failure is None else 1


def to_url_host(host: str) -> str:
    """Return what a URL on this machine has for an address to listen on."""
    if host in _ANY_ADDRESS:
        return _ANY_ADDRESS[host]
    return f"[{host}]" if ":" in host else host


def _warn(host: str, url: str, config: AppConfig) -> None:
    # Another base URL is the operator's own word.
    is_default = config.store.kind == "folder" and config.store.base_url == url
    if is_default and (warning := warn_of_urls(host, url)):
        print(warning, flush=True)


def _defaults(options: argparse.Namespace, url: str) -> dict[str, Any]:
    if options.address is not None:
        return {"store": {"base_url": url}}
    defaults = local_defaults(url)
    return merge(defaults, mixed_defaults()) if options.mixed else defaults


def _check_port(host: str, port: int) -> None:
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as exc:
            raise OSError(f"port must be free, got {host}:{port} ({exc.strerror})") from exc


def _check_stores(config: AppConfig) -> None:
    check_store(config.store)
    check_jobs(config)
    check_quotas(config)
    try:
        check_cache(config)
    except RecordStoreUnavailableError as exc:
        # What is cached may be lost at any time, also before the start.
        print(f"warning: {exc}", flush=True)


@dataclass(frozen=True)
class _StopSignals:
    """Set by SIGINT and SIGTERM, instead of dying in the middle."""

    stop: threading.Event
    urge: threading.Event
    """By the second one: calls are not waited for."""


@contextlib.contextmanager
def _stop_signals() -> Iterator[_StopSignals]:
    signals = _StopSignals(threading.Event(), threading.Event())

    def on_signal(number: int, frame: FrameType | None) -> None:
        (signals.urge if signals.stop.is_set() else signals.stop).set()

    previous = {
        number: signal.signal(number, on_signal) for number in (signal.SIGINT, signal.SIGTERM)
    }
    try:
        yield signals
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def _serve(
    application: Application,
    config: AppConfig,
    options: argparse.Namespace,
    url: str,
    signals: _StopSignals,
    watch: RayWatch,
) -> str | None:
    """Serve until told to stop; return what failed, or None."""
    print(f"loading {config.model.source} ...", flush=True)
    serve.start(
        # The nodes of a mixed cluster share this machine, and its port.
        proxy_location=ProxyLocation.HeadOnly if options.mixed else ProxyLocation.EveryNode,
        http_options=HTTPOptions(host=options.host, port=options.port),
        logging_config=LoggingConfig(log_level="WARNING", enable_access_log=False),
    )
    try:
        serve.run_many(
            [
                serve.RunTarget(
                    application,
                    name=APPLICATION,
                    route_prefix="/",
                    logging_config=LoggingConfig(enable_access_log=False),
                )
            ],
            wait_for_applications_running=False,
        )
        failure = _wait_until_ready(url, config, signals.stop)
        if failure is not None:
            return failure
        if not signals.stop.is_set():
            _print_how_to_try(url, config)
            if options.mixed:
                tour = partial(show_tour, url, partial(print, flush=True))
                threading.Thread(target=tour, daemon=True).start()
            signals.stop.wait()
        if watch.failure is None:
            print(
                f"stopping: calls have {_DRAIN_S:g} s to finish, a second signal ends them",
                flush=True,
            )
            drain_calls(
                url,
                num_routers=config.router.num_replicas,
                within_s=_DRAIN_S,
                is_urged=signals.urge.is_set,
            )
        return watch.failure
    finally:
        if watch.failure is None:
            _shut_down(options.address)


def _shut_down(address: str | None) -> None:
    if address is None:
        shut_down_serve(within_s=_SHUT_DOWN_S)
    else:
        serve.delete(APPLICATION)


def _wait_until_ready(url: str, config: AppConfig, stop: threading.Event) -> str | None:
    """Print each deployment as it comes up; return what failed, or None."""
    printed: dict[str, str] = {}
    while not stop.wait(_POLL_S):
        application = serve.status().applications[APPLICATION]
        for name, deployment in application.deployments.items():
            if printed.get(name) != deployment.status.value:
                printed[name] = deployment.status.value
                print(f"  {name}: {deployment.status.value.lower()}", flush=True)
        if application.status is ApplicationStatus.DEPLOY_FAILED:
            return explain_failure(application, config)
        if application.status is ApplicationStatus.RUNNING and is_ready(url):
            return None
    return None


def is_ready(url: str) -> bool:
    """Ask the service of this machine itself, whatever proxy the environment names."""
    try:
        return httpx.get(f"{url}/readyz", timeout=5, trust_env=False).status_code == 200
    except httpx.HTTPError:
        return False


def _print_how_to_try(url: str, config: AppConfig) -> None:
    print(f"\nready: {url}   (a description of the API: {url}/docs)\n")
    print("\n".join(f"  {line}" for line in build_example(url, config.keys)) + "\n")
    if config.model.source == "embedded":
        print("This is the small embedded model. For the real one, on a GPU:")
        print("  zimage-serve run --model Tongyi-MAI/Z-Image-Turbo\n")
    print("Ctrl-C stops.", flush=True)


def build_example(url: str, keys: KeysConfig) -> list[str]:
    """Return the lines of a first call; a caller that needs a key has it in $KEY."""
    authorization = [] if keys.file is None else ["""  -H "authorization: Bearer $KEY" \\"""]
    return [
        f"curl {url}{GENERATIONS} -H 'content-type: application/json' \\",
        *authorization,
        """  -d '{"prompt": "a red circle on a blue background"}'""",
    ]

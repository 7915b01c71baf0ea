"""Which store the jobs get, and where a file is refused."""

from pathlib import Path
from typing import Any

import pytest

from cluster.errors import RecordStoreConfigurationError
from cluster.records import SqliteRecordStore
from deployments.config import AppConfig
from deployments.jobs.record_stores import build_record_store, check_nodes, matches_label

REDIS = {"kind": "redis", "url": "redis://:hunter2@redis:6379/0"}


def configure(**sections: Any) -> AppConfig:
    return AppConfig.model_validate(sections)


def node(address: str, *, cpus: float = 4.0, alive: bool = True, **labels: str) -> dict[str, Any]:
    return {
        "NodeManagerAddress": address,
        "Alive": alive,
        "Resources": {"CPU": cpus} if cpus else {},
        "Labels": labels,
    }


def test_jobs_lie_beside_the_pictures_by_default(tmp_path: Path) -> None:
    store = build_record_store(configure(store={"path": str(tmp_path)}))

    assert isinstance(store, SqliteRecordStore)
    assert store.path == tmp_path / ".jobs.sqlite3"


def test_with_s3_the_place_must_be_named() -> None:
    s3 = {"kind": "s3", "bucket": "pictures"}
    with pytest.raises(RecordStoreConfigurationError, match=r"jobs\.store must be set"):
        build_record_store(configure(store=s3))
    build_record_store(configure(store=s3, jobs={"store": {"path": "/data/jobs.sqlite3"}}))
    build_record_store(configure(store=s3, jobs={"store": REDIS}))


def test_the_password_is_not_in_the_printed_configuration() -> None:
    config = configure(jobs={"store": REDIS})

    assert "hunter2" not in str(config.model_dump(mode="json"))
    assert "hunter2" not in repr(config)


@pytest.mark.parametrize(
    "nodes",
    [
        [node("10.0.0.1")],
        [node("10.0.0.1"), node("10.0.0.1")],
        [node("10.0.0.1"), node("10.0.0.2", alive=False)],
        [node("10.0.0.1"), node("10.0.0.2", cpus=0.0)],
    ],
    ids=["one", "two on one machine", "one dead", "a head without CPUs"],
)
def test_a_file_suits_routers_on_one_machine(nodes: list[dict[str, Any]]) -> None:
    check_nodes(configure(), nodes)


def test_a_file_is_refused_where_routers_may_be_on_two_machines() -> None:
    with pytest.raises(RecordStoreConfigurationError, match=r"must be redis .* 2 machines"):
        check_nodes(configure(), [node("10.0.0.1"), node("10.0.0.2")])


def test_redis_suits_any_cluster() -> None:
    check_nodes(configure(jobs={"store": REDIS}), [node("10.0.0.1"), node("10.0.0.2")])


def test_only_machines_that_the_router_may_use_count() -> None:
    config = configure(router={"label_selector": {"pool": "cpu"}})

    check_nodes(config, [node("10.0.0.1", pool="cpu"), node("10.0.0.2", pool="h800")])


@pytest.mark.parametrize(
    ("value", "rule", "is_match"),
    [
        ("cpu", "cpu", True),
        ("gpu", "cpu", False),
        (None, "cpu", False),
        ("cpu", "!gpu", True),
        (None, "!gpu", True),
        ("gpu", "!gpu", False),
        ("b", "in(a,b)", True),
        ("c", "in(a,b)", False),
        (None, "in(a,b)", False),
        ("c", "!in(a,b)", True),
        ("a", "!in(a,b)", False),
        (None, "!in(a,b)", True),
    ],
)
def test_selectors_mean_what_they_mean_to_ray(value: str | None, rule: str, is_match: bool) -> None:
    assert matches_label(value, rule) is is_match

"""What a real server makes of the settings that base gives it."""

from pathlib import Path

import redis

from tests.k8s.redis_server import DURABLE, redis_of_base

PASSWORD = "secret-of-the-test"


def test_the_durable_redis_answers_when_a_change_is_on_the_disk(tmp_path: Path) -> None:
    with (
        redis_of_base(DURABLE, tmp_path / "durable", password=PASSWORD) as address,
        redis.Redis.from_url(address, password=PASSWORD) as client,
    ):
        settings = client.config_get("append*")

    assert (settings["appendonly"], settings["appendfsync"]) == ("yes", "always")

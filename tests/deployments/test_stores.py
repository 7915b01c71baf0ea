"""How many files a router reads and writes at once."""

import asyncio
import threading

from deployments.config import S3StoreConfig
from deployments.stores import build_store_threads


async def test_as_many_uploads_run_at_once_as_the_bucket_may_have_connections() -> None:
    threads = build_store_threads(S3StoreConfig(kind="s3", bucket="images", max_connections=48))
    all_run = threading.Barrier(48)

    await asyncio.gather(*[threads.call(all_run.wait, 10) for _ in range(48)])

"""A job store that is away for a while costs time and never a job."""

from pathlib import Path

from jobs_app import LoadedModel, app_config, run_api
from redis_server import run_redis

BODY = {"prompt": "a red circle", "size": "64x64", "num_inference_steps": 2}


async def test_accepted_jobs_survive_a_killed_redis(tmp_path: Path, model: LoadedModel) -> None:
    with run_redis(tmp_path) as server:
        jobs = {"store": {"kind": "redis", "url": server.url}, "max_running_jobs": 2}
        async with run_api(app_config(tmp_path, model.source, jobs=jobs), model) as api:
            api.stages.gate.clear()
            ids = [(await api.post("jobs", BODY)).json()["id"] for _ in range(5)]
            await api.wait_for(ids[0], "running")
            server.kill()
            refused = await api.post("jobs", BODY)
            keyed = await api.post("generations", BODY, idempotency_key="k")
            api.stages.gate.set()
            unkeyed = await api.post("generations", BODY)
            server.start()
            jobs_after = [await api.finish(id) for id in ids]

    assert {job["status"] for job in jobs_after} == {"succeeded"}
    assert len({job["result"]["data"][0]["key"] for job in jobs_after}) == 5
    assert (refused.status_code, keyed.status_code) == (503, 503)
    assert refused.headers["retry-after"]
    assert refused.json()["error"]["code"] == "dependency_unavailable"
    assert unkeyed.status_code == 200

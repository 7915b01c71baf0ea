"""A job's webhook, from the call to the receiver."""

import base64
import json
from pathlib import Path

from jobs_app import LoadedModel, app_config, run_api
from webhook_receiver import run_receiver

SECRET = f"whsec_{base64.b64encode(bytes(32)).decode()}"
BODY = {"prompt": "an unmistakable prompt", "size": "64x64", "num_inference_steps": 1}


async def test_a_receiver_hears_of_beginning_and_end(tmp_path: Path, model: LoadedModel) -> None:
    async with run_receiver() as receiver:
        webhooks = {
            "allowed_hosts": [f"localhost:{receiver.port}"],
            "secret": SECRET,
            "allow_http": True,
            "allow_private_addresses": True,
        }
        config = app_config(tmp_path, model.source, webhooks=webhooks)
        webhook = {"url": f"http://localhost:{receiver.port}/hook"}
        async with run_api(config, model) as api:
            answer = await api.post("jobs", {**BODY, "webhook": webhook})
            await receiver.wait_for(2)

    messages = [json.loads(each.body) for each in receiver.received]
    assert [message["type"] for message in messages] == ["job.running", "job.succeeded"]
    assert {message["data"]["id"] for message in messages} == {answer.json()["id"]}
    assert "unmistakable" not in str(receiver.received)


async def test_a_private_receiver_hears_nothing_unless_allowed(
    tmp_path: Path, model: LoadedModel
) -> None:
    async with run_receiver() as receiver:
        webhooks = {
            "allowed_hosts": [f"localhost:{receiver.port}"],
            "secret": SECRET,
            "allow_http": True,
            "max_attempts": 1,
        }
        config = app_config(tmp_path, model.source, webhooks=webhooks)
        webhook = {"url": f"http://localhost:{receiver.port}/hook"}
        async with run_api(config, model) as api:
            answer = await api.post("jobs", {**BODY, "webhook": webhook})
            job = await api.finish(answer.json()["id"])

    assert job["status"] == "succeeded"
    assert receiver.received == []

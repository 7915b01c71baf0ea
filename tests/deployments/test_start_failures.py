"""What is told of an application that did not start."""

import pytest
from ray.serve._private.common import DeploymentStatus, DeploymentStatusTrigger
from ray.serve.schema import (
    ApplicationStatus,
    ApplicationStatusOverview,
    DeploymentStatusOverview,
)

from deployments.commands.start_failures import explain_failure
from deployments.config import AppConfig

TRACEBACK = """\
The deployment failed to start 3 times in a row. See controller logs for details. Error:
\x1b[36mray::ServeReplica:zimage:RouterDeployment.initialize()\x1b[39m (pid=1, ip=10.0.0.1)
  File "/usr/lib/python3.11/concurrent/futures/_base.py", line 449, in result
    return self.__get_result()
           ^^^^^^^^^^^^^^^^^^^
RuntimeError: Traceback (most recent call last):
  File "/app/deployments/router.py", line 41, in __init__
    check_jobs(config)
cluster.errors.RecordStoreUnavailableError: {error}
"""
CONFIG = AppConfig.model_validate(
    {
        "jobs": {"store": {"kind": "redis", "url": "redis://:hid%2Fden@h/0"}},
        "keys": {"redis_url": "env:QUOTAS"},
    }
)


def explain(message: str) -> str:
    def overview(status: DeploymentStatus, message: str) -> DeploymentStatusOverview:
        trigger = DeploymentStatusTrigger.CONFIG_UPDATE_STARTED
        return DeploymentStatusOverview(status, trigger, {}, message)

    application = ApplicationStatusOverview(
        status=ApplicationStatus.DEPLOY_FAILED,
        message="Failed to update the deployments ['RouterDeployment'].",
        last_deployed_time_s=0.0,
        deployments={
            "TextEncoderDeployment": overview(DeploymentStatus.HEALTHY, "well"),
            "RouterDeployment": overview(DeploymentStatus.DEPLOY_FAILED, message),
        },
    )
    first, rest = explain_failure(application, CONFIG).split("\n", 1)
    assert first == application.message
    return rest


def test_the_error_below_the_last_traceback_is_told() -> None:
    told = explain(TRACEBACK.format(error="the job store redis://h failed: TimeoutError"))

    assert told == (
        "  RouterDeployment: RecordStoreUnavailableError: "
        "the job store redis://h failed: TimeoutError"
    )


def test_without_a_traceback_what_serve_says_is_told() -> None:
    assert explain("A replica failed. Error:\nThe actor died.") == (
        "  RouterDeployment: The actor died."
    )
    assert explain("no node has 8 GPUs") == "  RouterDeployment: no node has 8 GPUs"


@pytest.mark.parametrize(
    "error",
    [
        "cannot reach redis://:hid%2Fden@h/0",
        "hid%2Fden was refused",
        "hid/den was refused",
        "cannot reach redis://:quota-secret@other",
        "quota-secret was refused",
        "cannot reach http://user:another-secret@proxy:3128",
    ],
)
def test_secrets_are_left_out(error: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QUOTAS", "redis://:quota-secret@other")

    told = explain(TRACEBACK.format(error=error))

    assert "***" in told
    assert "hid" not in told
    assert "-secret" not in told

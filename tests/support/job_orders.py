"""Jobs without HTTP, and answers that name who drew them."""

from collections.abc import Sequence
from datetime import UTC, datetime

from cluster.jobs.job import Job, JobKind, Lane
from cluster.jobs.job_store import JobStore
from deployments.generation import ImagesOrder
from deployments.jobs.orders import JobItem, write_items
from deployments.schemas import ImageItem, ImagesRequest, ImagesResponse, Routing, Timings, Usage
from deployments.validation import RequestRules


def body_of(seed: int) -> ImagesRequest:
    """Return a small request."""
    return ImagesRequest(prompt="a red circle", size="64x64", num_inference_steps=4, seed=seed)


def accept_job(
    store: JobStore,
    rules: RequestRules,
    number: int,
    *,
    num_items: int = 1,
    seeds: Sequence[int] | None = None,
    timeout_s: float = 600.0,
) -> Job:
    """Queue a job of one picture, or a batch; seeds are the job's number if none are given."""
    items = [
        JobItem(rules.to_order(body_of(seed), request_id="r"), is_base64=False)
        for seed in seeds or num_items * [number]
    ]
    now = store.records.now()
    job = Job(
        id=f"job-{number:024x}",
        owner="anonymous",
        request_id="r",
        kind=JobKind.IMAGE if len(items) == 1 else JobKind.BATCH,
        lane=Lane.INTERACTIVE,
        num_items=len(items),
        created_at=now,
        deadline_at=now + timeout_s,
        estimate_s=1.0,
    )
    return store.accept(job, write_items(items))


def answer_of(order: ImagesOrder, drawn_by: str) -> ImagesResponse:
    """Return an answer as the service would give it."""
    return ImagesResponse(
        created=int(datetime.now(UTC).timestamp()),
        data=[ImageItem(seed=order.seed, key=f"images/{order.id}/0.png")],
        model="tiny",
        model_revision="0",
        path="full_image",
        fingerprint=drawn_by,
        size=str(order.size),
        output_format=order.output_format.value,
        usage=Usage(input_tokens=1, output_tokens=1, total_tokens=2, cost_units=0.0),
        timings=Timings.model_validate(dict.fromkeys(Timings.model_fields, 0.0)),
        routing=Routing(pool="only", reason="only", explanation="only", estimate_ms=0.0),
    )

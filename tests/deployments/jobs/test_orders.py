"""Orders and outcomes survive the store, and prompts stay out of errors."""

import hashlib
import json
from dataclasses import fields

import pytest
from job_orders import answer_of
from jobs_app import LoadedModel

from cluster.errors import JobFormatError
from cluster.jobs.job import FORMAT, Delivery, Job, JobFailure
from deployments.config import AppConfig
from deployments.generation import ImagesOrder
from deployments.jobs.orders import JobItem, read_items, write_items
from deployments.jobs.outcomes import StoredOutcome
from deployments.schemas import ImagesRequest
from deployments.validation import RequestRules
from pipeline.request import ImageSize


def test_an_order_is_read_back_whole_with_its_seed(model: LoadedModel) -> None:
    rules = RequestRules.from_config(AppConfig(), model.described)
    body = ImagesRequest(prompt="蓝色 \U0001f534", n=3, size="96x64", output_format="webp")
    items = [JobItem(rules.to_order(body, request_id="r"), is_base64=True)]

    assert read_items(write_items(items)) == items


def test_a_field_that_this_version_does_not_know_is_refused(model: LoadedModel) -> None:
    rules = RequestRules.from_config(AppConfig(), model.described)
    item = JobItem(rules.to_order(ImagesRequest(prompt="x"), request_id="r"), is_base64=False)
    (values,) = json.loads(write_items([item]))
    values["order"]["adapter"] = "a"

    with pytest.raises(JobFormatError, match="adapter"):
        read_items(json.dumps([values]))


def test_whoever_changes_the_fields_of_a_job_changes_its_format() -> None:
    kinds = (Job, JobFailure, Delivery, JobItem, ImagesOrder, ImageSize)
    names = [f"{kind.__name__}.{field.name}" for kind in kinds for field in fields(kind)]

    assert (FORMAT, hashlib.sha256(" ".join(names).encode()).hexdigest()[:8]) == (3, "52faab1d")


def test_an_unreadable_order_does_not_show_its_prompt() -> None:
    with pytest.raises(JobFormatError) as caught:
        read_items('[{"order": {"prompt": "an unmistakable prompt"}, "is_base64": 5}]')

    assert "unmistakable" not in str(caught.value)


def test_an_outcome_that_was_kept_without_the_details_of_its_tokens_is_read(
    model: LoadedModel,
) -> None:
    rules = RequestRules.from_config(AppConfig(), model.described)
    order = rules.to_order(ImagesRequest(prompt="x", size="64x64"), request_id="r")
    outcome = StoredOutcome.of_answer(answer_of(order, "here"), is_base64=False)
    kept = json.loads(outcome.to_json())
    details = kept["answer"]["usage"].pop("input_tokens_details")

    assert details == {"text_tokens": 1, "image_tokens": 0}
    assert StoredOutcome.model_validate(kept) == outcome
    assert StoredOutcome.model_validate_json(outcome.to_json()) == outcome

"""Orders survive the store, and their prompts stay out of errors."""

import pytest
from jobs_app import LoadedModel
from pydantic import ValidationError

from deployments.config import AppConfig
from deployments.jobs.orders import JobItem, read_items, write_items
from deployments.schemas import ImagesRequest
from deployments.validation import RequestRules


def test_an_order_is_read_back_whole_with_its_seed(model: LoadedModel) -> None:
    rules = RequestRules.from_config(AppConfig(), model.described)
    body = ImagesRequest(prompt="蓝色 \U0001f534", n=3, size="96x64", output_format="webp")
    items = [JobItem(rules.to_order(body, request_id="r"), is_base64=True)]

    assert read_items(write_items(items)) == items


def test_an_unreadable_order_does_not_show_its_prompt() -> None:
    with pytest.raises(ValidationError) as caught:
        read_items('[{"order": {"prompt": "an unmistakable prompt"}, "is_base64": 5}]')

    assert "unmistakable" not in str(caught.value)

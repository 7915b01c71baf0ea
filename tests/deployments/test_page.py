"""The page in a real browser, against the real application."""

import contextlib
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

import httpx
import pytest
from caller_api import build_app, load_model, write_keys
from fakes import SteppedStages
from fastapi import FastAPI
from local_service import build_api_over, local_config, serve_locally
from playwright.sync_api import Browser, Page, expect, sync_playwright

from deployments.config import LimitsConfig
from deployments.page.files import HEADERS

CHROMIUM = shutil.which("chromium")
ARGUMENTS = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking"]
WIDTHS = [360, 768, 1280]

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="needs Debian's package chromium")


@dataclass
class Seen:
    """What the browser reported while a page was open."""

    complaints: list[str] = field(default_factory=list)
    hosts: set[str] = field(default_factory=set)

    def watch(self, page: Page) -> None:
        page.on("console", lambda message: self.complaints.append(message.text))
        page.on("pageerror", lambda error: self.complaints.append(str(error)))
        page.on("request", lambda request: self.hosts.add(urlsplit(request.url).netloc))


@pytest.fixture(scope="module")
def url(local_app: FastAPI) -> Iterator[str]:
    with serve_locally(local_app) as url:
        # Until then the browser complains of each 503.
        while httpx.get(f"{url}/readyz").status_code != 200:
            time.sleep(0.05)
        yield url


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        yield browser
        browser.close()


@pytest.fixture
def seen() -> Seen:
    return Seen()


@pytest.fixture
def page(browser: Browser, url: str, seen: Seen) -> Iterator[Page]:
    context = browser.new_context(locale="en-GB", viewport={"width": 1280, "height": 800})
    page = context.new_page()
    seen.watch(page)
    page.goto(url)
    yield page
    context.close()


def _draw(page: Page, prompt: str) -> None:
    page.get_by_label("Prompt", exact=True).fill(prompt)
    page.get_by_role("button", name="Draw").click()


def test_a_prompt_becomes_a_picture_in_the_gallery(page: Page, seen: Seen, url: str) -> None:
    _draw(page, "a red circle")

    expect(page.locator("#caption")).to_contain_text("64x64 · seed")
    expect(page.get_by_alt_text("a red circle")).to_be_visible()
    expect(page.locator("#gallery button")).to_have_count(1)
    assert page.locator("#picture").evaluate("image => image.naturalWidth") == 64
    assert seen.complaints == []
    assert seen.hosts <= {urlsplit(url).netloc, ""}


def test_the_keyboard_is_enough(page: Page, seen: Seen) -> None:
    page.keyboard.type("a red circle")
    for key in ("Tab", "Tab", "Tab", "ArrowLeft", "Tab"):
        page.keyboard.press(key)
    page.keyboard.type("77")
    for key in ("Tab", "Enter"):
        page.keyboard.press(key)

    expect(page.locator("#caption")).to_contain_text("64x64 · seed 77")
    assert page.locator("#steps-value").inner_text() == "7"
    assert seen.complaints == []


def test_the_same_seed_draws_the_same_picture_again(page: Page) -> None:
    page.get_by_label("Seed", exact=True).fill(str(2**63 - 1))
    _draw(page, "a red circle")
    expect(page.locator("#gallery button")).to_have_count(1)
    page.get_by_role("button", name="Use these settings").click()

    page.get_by_role("button", name="Draw").click()
    expect(page.locator("#gallery button")).to_have_count(2)

    assert page.get_by_label("Seed", exact=True).input_value() == str(2**63 - 1)


def test_what_the_service_refuses_is_shown_at_its_field(page: Page) -> None:
    page.get_by_label("Size", exact=True).select_option("custom")
    page.get_by_label("Width x height").fill("512x512")
    _draw(page, "a red circle")

    expect(page.get_by_role("alert")).to_have_text(
        "size must have at most 9216 pixels in all, got 262144"
    )
    expect(page.get_by_label("Width x height")).to_be_focused()


def test_a_service_with_keys_is_asked_with_one(
    browser: Browser, tiny_model: Path, tmp_path: Path
) -> None:
    key = write_keys(tmp_path / "keys.yaml", alice={})["alice"]
    keys = {"file": str(tmp_path / "keys.yaml")}
    app = build_app(load_model(tiny_model), tmp_path, keys=keys)
    context = browser.new_context(locale="en-GB")
    with serve_locally(app) as url, contextlib.closing(context):
        page = context.new_page()
        page.goto(url)
        _draw(page, "a red circle")
        expect(page.get_by_label("API key")).to_be_focused()

        page.keyboard.type(key)
        page.get_by_role("button", name="Draw").click()

        expect(page.locator("#gallery button")).to_have_count(1)
        page.get_by_text("Call the API").click()
        for button in ("Copy as curl", "Copy as Python"):
            page.get_by_role("button", name=button).click()
            expect(page.locator("#code")).to_contain_text("API_KEY")
            assert key not in page.locator("#code").inner_text()


def test_a_missing_prompt_is_asked_for(page: Page) -> None:
    page.get_by_role("button", name="Draw").click()

    expect(page.get_by_role("alert")).to_have_text("Write a prompt first.")
    expect(page.get_by_label("Prompt", exact=True)).to_be_focused()


def test_the_curl_line_is_what_the_page_would_send(page: Page) -> None:
    page.get_by_label("Prompt", exact=True).fill('it\'s "red"')
    page.get_by_label("Seed", exact=True).fill("5")
    page.get_by_text("Call the API").click()
    page.get_by_role("button", name="Copy as curl").click()

    code = page.locator("#code").inner_text()
    assert r"""'{"prompt":"it'\''s \"red\"","size":"auto",""" in code
    assert code.endswith(""""priority":"interactive","seed":5}'""")


def test_the_python_lines_are_python(page: Page) -> None:
    page.get_by_label("Prompt", exact=True).fill('a "red"\ncircle')
    page.get_by_text("Call the API").click()
    page.get_by_role("button", name="Copy as Python").click()

    code = page.locator("#code").inner_text()
    compile(code, "copied", "exec")
    assert 'prompt="a \\"red\\"\\ncircle"' in code


def test_the_page_speaks_the_browsers_language_and_the_other(browser: Browser, url: str) -> None:
    context = browser.new_context(locale="zh-CN")
    page = context.new_page()
    page.goto(url)
    expect(page.get_by_role("button", name="生成")).to_be_visible()

    page.get_by_role("button", name="English").click()

    expect(page.get_by_role("button", name="Draw")).to_be_visible()
    assert page.locator("html").get_attribute("lang") == "en"
    context.close()


def test_both_languages_say_everything(page: Page) -> None:
    english, chinese = page.evaluate("[Object.keys(WORDS.en), Object.keys(WORDS.zh)]")

    assert english == chinese


def test_the_pools_state_is_shown(page: Page) -> None:
    expect(page.locator("#pools")).to_contain_text("pool default · Ready", timeout=15_000)


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", WIDTHS)
def test_nothing_is_wider_than_the_screen(
    browser: Browser, url: str, width: int, scheme: Literal["light", "dark"], tmp_path: Path
) -> None:
    context = browser.new_context(
        viewport={"width": width, "height": 800}, color_scheme=scheme, locale="en"
    )
    page = context.new_page()
    page.goto(url)
    _draw(page, "a red circle " * 20)
    expect(page.locator("#gallery button")).to_have_count(1)

    screenshot = page.screenshot(path=tmp_path / "page.png", full_page=True)

    assert page.evaluate("document.documentElement.scrollWidth") == width
    assert len(screenshot) > 10_000
    context.close()


def test_only_sizes_that_may_be_drawn_are_offered(
    browser: Browser, tiny_model: Path, tmp_path: Path
) -> None:
    config = local_config(tiny_model, tmp_path, limits=LimitsConfig(max_pixels=512 * 512))
    with serve_locally(build_api_over(config, SteppedStages())) as url:
        context = browser.new_context(locale="en")
        page = context.new_page()
        page.goto(url)

        expect(page.locator("#size option")).to_have_text(
            ["Auto (64x64)", "256x256", "512x512", "512x384", "384x512", "Other…"]
        )
        context.close()


def test_previews_are_shown_while_it_denoises(
    browser: Browser, tiny_model: Path, tmp_path: Path
) -> None:
    stages = SteppedStages()
    stages.allow(2)
    with serve_locally(build_api_over(local_config(tiny_model, tmp_path), stages)) as url:
        context = browser.new_context(locale="en")
        page = context.new_page()
        page.goto(url)
        _draw(page, "a red circle")

        expect(page.locator("#picture.preview")).to_be_visible()
        expect(page.locator("#caption")).to_have_text("Step 1 of 8")
        page.keyboard.press("Escape")
        expect(page.locator("#caption")).to_have_text("Stopped.")
        context.close()


@pytest.mark.parametrize(
    "path", ["/", "/page/app.js", "/page/words.js", "/page/style.css", "/page/limits.json"]
)
def test_every_file_forbids_other_hosts(url: str, path: str) -> None:
    answer = httpx.get(f"{url}{path}")

    assert answer.status_code == 200
    policy = answer.headers["content-security-policy"]
    assert policy == HEADERS["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "http" not in policy


def test_the_api_is_described_without_another_host(page: Page, seen: Seen, url: str) -> None:
    page.goto(f"{url}/docs")
    page.locator("#operations-default-health_healthz_get button").first.click()
    page.get_by_role("button", name="Try it out").click()
    page.get_by_role("button", name="Execute").click()

    expect(page.locator(".live-responses-table")).to_contain_text('"status": "ok"')
    assert seen.complaints == []
    assert seen.hosts <= {urlsplit(url).netloc, ""}


def test_the_api_is_tried_out_with_a_key(
    browser: Browser, tiny_model: Path, tmp_path: Path
) -> None:
    key = write_keys(tmp_path / "keys.yaml", alice={})["alice"]
    keys = {"file": str(tmp_path / "keys.yaml")}
    app = build_app(load_model(tiny_model), tmp_path, keys=keys)
    context = browser.new_context(locale="en-GB")
    with serve_locally(app) as url, contextlib.closing(context):
        page = context.new_page()
        page.goto(f"{url}/docs")
        page.get_by_role("button", name="Authorize").click()
        page.locator(".auth-container input").fill(key)
        page.get_by_role("button", name="Apply credentials").click()
        page.get_by_role("button", name="Close", exact=True).click()
        page.locator("#operations-default-list_models_v1_models_get button").first.click()
        page.get_by_role("button", name="Try it out").click()
        page.get_by_role("button", name="Execute").click()

        expect(page.locator(".live-responses-table")).to_contain_text('"id": "tiny"')


def test_a_file_that_the_browser_has_is_not_sent_again(url: str) -> None:
    tag = httpx.get(f"{url}/page/app.js").headers["etag"]

    again = httpx.get(f"{url}/page/app.js", headers={"if-none-match": tag})

    assert again.status_code == 304
    assert again.content == b""

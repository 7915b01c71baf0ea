"""`zimage-serve evaluate`: how well a running service draws what it is told.

Held-out captions are drawn through the service's own API and read back by classical image analysis,
so an operator sees whether quantisation, tiling or batching cost accuracy. Made for the embedded
model's domain.
"""

import argparse
import base64
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from typing import TYPE_CHECKING, Any, Final

import httpx
import numpy as np
from PIL import Image
from tqdm import tqdm

from deployments.client import ClientError, to_headers, to_refusal, to_service_url
from deployments.commands.failure import tell_failure
from deployments.commands.options import add_key_argument, parse_count, read_key
from deployments.config_file import ConfigurationError
from deployments.http_api import GENERATIONS

if TYPE_CHECKING:
    from pipeline.embedded.evaluation.captions import HeldOutCaption
    from pipeline.embedded.evaluation.scoring import PictureScore

_TIMEOUT_S: Final = 600.0


def add_evaluate_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's options."""
    parser.add_argument("--url", default="http://127.0.0.1:8000", help="the service (%(default)s)")
    parser.add_argument("--count", type=parse_count, default=100, help="captions (%(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="chooses captions and noise")
    parser.add_argument("--size", default="256x256", help="WIDTHxHEIGHT (%(default)s)")
    parser.add_argument("--path", choices=["auto", "full_image", "tiled"], default="auto")
    parser.add_argument(
        "--concurrency", type=parse_count, default=4, help="calls at once (%(default)s)"
    )
    add_key_argument(parser)


def run_evaluate(options: argparse.Namespace) -> int:
    """Draw, read back, and print the share of pictures that are right."""
    try:
        from pipeline.embedded.evaluation.captions import held_out_captions
        from pipeline.embedded.evaluation.scoring import share_right
    except ImportError:
        tell_failure("this command needs OpenCV: pip install 'zimage-serve[evaluate]'")
        return 1
    captions = held_out_captions(options.count, seed=options.seed)
    try:
        scores = _score_all(options, captions)
    except (ConfigurationError, ClientError) as exc:
        tell_failure(exc)
        return 1
    except (httpx.HTTPError, httpx.InvalidURL) as exc:
        tell_failure(f"the service at {options.url} must answer, got {exc}")
        return 1
    print(f"{'':>16} {'all':>7} {'en':>7} {'zh':>7}   of {options.count} pictures")
    columns = [
        share_right(scores),
        *(
            share_right(
                score
                for caption, score in zip(captions, scores, strict=True)
                if caption.language == language
            )
            for language in ("en", "zh")
        ),
    ]
    for name in columns[0]:
        print(f"{name:>16}" + "".join(f" {100 * column[name]:6.1f}%" for column in columns))
    return 0


def _score_all(
    options: argparse.Namespace, captions: "list[HeldOutCaption]"
) -> "list[PictureScore]":
    bodies = [
        {
            "prompt": caption.prompt,
            "size": options.size,
            "seed": options.seed * 1_000_000 + place,
            "path": options.path,
            "response_format": "b64_json",
        }
        for place, caption in enumerate(captions)
    ]
    headers = to_headers(read_key(options.key_file))
    with (
        httpx.Client(
            base_url=to_service_url(options.url), headers=headers, timeout=_TIMEOUT_S
        ) as client,
        ThreadPoolExecutor(options.concurrency) as threads,
    ):
        drawn = threads.map(lambda body: _draw(client, body), bodies)
        return [
            _judge(caption, pixels)
            for caption, pixels in tqdm(
                zip(captions, drawn, strict=True), total=len(bodies), unit="picture"
            )
        ]


def _draw(client: httpx.Client, body: dict[str, Any]) -> np.ndarray[Any, np.dtype[np.uint8]]:
    answer = client.post(GENERATIONS, json=body)
    if not answer.is_success:
        raise ClientError(f"the service refused: {to_refusal(answer).message}")
    content = base64.b64decode(answer.json()["data"][0]["b64_json"])
    with Image.open(BytesIO(content)) as image:
        return np.asarray(image.convert("RGB"))


def _judge(
    caption: "HeldOutCaption", pixels: np.ndarray[Any, np.dtype[np.uint8]]
) -> "PictureScore":
    from pipeline.embedded.evaluation.judging import judge

    return judge(caption, pixels)

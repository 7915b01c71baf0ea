"""How soon a service that starts draws, with and without kernels that were compiled before.

    python tests/benchmarks/cold_start.py --folder /dev/shm/zimage --out cold_start.json
    python tests/benchmarks/cold_start.py --tiny

Seeded random weights at the true size are written to `--folder` in the hub's layout, where memory
holds them, and `zimage-serve run` reads them by its ordinary loader, all stages on one GPU. Seconds
are from the start of the command to the first picture, and to all of `SIZES`; memory is the most
that a replica's process held on the host meanwhile, against the bytes of its component.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
import traceback
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any, Final

import httpx
import psutil
import torch
import yaml

sys.path[:0] = [str(Path(__file__).parents[1] / "support"), str(Path(__file__).parents[2])]

from ray_processes import find_processes
from service import Service, run_service
from true_size_folder import component_bytes, write_true_size

SIZES: Final = ("512x512", "1024x1024", "2048x2048")
TINY_SIZES: Final = ("64x64", "128x128")
COMPONENTS: Final = {
    "denoiser": "transformer",
    "text encoder": "text_encoder",
    "VAE decoder": "vae",
}
BODY: Final = {"prompt": "a red circle on a blue background", "response_format": "b64_json"}


@dataclass
class Bench:
    """Where things are, and what came out."""

    model: Path
    work: Path
    sizes: tuple[str, ...]
    rows: list[dict[str, Any]] = field(default_factory=list)

    def add(self, name: str, **figures: object) -> None:
        """Add one row, and say it."""
        self.rows.append({"name": name, **figures})
        told = ", ".join(f"{key} {value}" for key, value in figures.items())
        print(f"{name:44} {told}", flush=True)

    def write_config(self, kernels: Path, precision: str, *, warms: bool) -> Path:
        """Write the configuration of one start."""
        sizes = list(self.sizes) if warms else []
        values = {
            "kernel_cache": {"folder": str(kernels)},
            "pools": [{"step_loop": {"precision": precision}, "warm_sizes": sizes}],
            "vae_decoder": {"warm_sizes": sizes},
        }
        path = self.work / "zimage.yaml"
        path.write_text(yaml.safe_dump(values), "utf-8")
        return path


def measure_start(bench: Bench, name: str, kernels: Path, precision: str, *, warms: bool) -> None:
    """Start the service, and stop it when it has drawn."""
    config = bench.write_config(kernels, precision, warms=warms)
    arguments = ("--config", str(config), "--model", str(bench.model))
    with tempfile.TemporaryDirectory(dir=bench.work) as folder:
        begun_s = time.monotonic()
        store = ("--store", str(Path(folder) / "images"))
        with watch_memory() as watch, run_service(Path(folder), *arguments, *store) as service:
            ready_s = time.monotonic() - begun_s
            watch(service)
            draws_s = [draw_s(service, size) for size in bench.sizes for _ in range(2)]
            peaks = watch(service)
    held = {
        kind: f"{peaks[kind] / 2**30:.2f} GiB, {peaks[kind] / whole:.2f} of its weights"
        for kind, component in COMPONENTS.items()
        if (whole := component_bytes(bench.model, component))
    }
    bench.add(
        name,
        ready_s=round(ready_s, 1),
        first_and_second_s=[round(each, 2) for each in draws_s],
        **held,
    )


def draw_s(service: Service, size: str) -> float:
    """Time one call."""
    begun_s = time.monotonic()
    url = f"{service.url}/v1/images/generations"
    httpx.post(url, json={**BODY, "size": size}, timeout=120).raise_for_status()
    return time.monotonic() - begun_s


@contextmanager
def watch_memory() -> Iterator[Callable[[Service], dict[str, int]]]:
    """Yield what returns the most bytes that each kind of replica has ever held on the host."""
    peaks: dict[str, int] = defaultdict(int)

    def look(service: Service) -> dict[str, int]:
        for kind in COMPONENTS:
            for process in find_processes(service, kind):
                status = Path(f"/proc/{process.pid}/status").read_text("utf-8")
                peaks[kind] = max(peaks[kind], _read_kib(status, "VmHWM") * 1024)
        return peaks

    yield look


def _read_kib(status: str, name: str) -> int:
    line = next(line for line in status.splitlines() if line.startswith(f"{name}:"))
    return int(line.split()[1])


def measure_warm(bench: Bench, name: str, kernels: Path, precision: str) -> None:
    """Fill a folder of kernels by the command that is for it."""
    config = bench.write_config(kernels, precision, warms=True)
    command = [sys.executable, "-m", "deployments.cli", "warm", "--config", str(config)]
    begun_s = time.monotonic()
    done = subprocess.run(
        [*command, "--model", str(bench.model)], capture_output=True, text=True, check=False
    )
    print(done.stdout + done.stderr[-2000:], flush=True)
    files = [path for path in kernels.rglob("*") if path.is_file()]
    bench.add(
        name,
        seconds=round(time.monotonic() - begun_s, 1),
        exit_status=done.returncode,
        files=len(files),
        mib=round(sum(path.stat().st_size for path in files) / 2**20, 1),
    )


def measure_parts(bench: Bench, name: str, kernels: Path) -> None:
    """Say where a denoiser's start goes, in a process of its own without Ray."""
    command = [sys.executable, __file__, "--parts-of", str(bench.model), "--kernels", str(kernels)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    bench.add(name, parts=done.stdout.strip() or done.stderr[-1000:])


def print_parts(model: Path, kernels: Path) -> None:
    """Load a denoiser and draw twice; print the seconds of each part."""
    laps, begun_s = {}, psutil.Process().create_time()

    def lap(name: str) -> None:
        nonlocal begun_s
        laps[name], begun_s = round(time.time() - begun_s, 2), time.time()

    from deployments.config import AppConfig
    from deployments.loading import build_loader
    from pipeline.acceleration.attention import build_attention, choose_attention
    from pipeline.denoising.warming import warm_up
    from pipeline.device import choose_device
    from pipeline.request import ImageSize
    from pipeline.weights import resolve_weights

    lap("process and imports")
    config = AppConfig.model_validate({"kernel_cache": {"folder": str(kernels)}})
    loader, compute = build_loader(config, resolve_weights(str(model))), choose_device()
    if loader.kernel_cache is not None:
        loader.kernel_cache.open(compute.accelerator)
    build_attention(choose_attention("auto", compute.device).packed, compute.device)
    lap("attention's library")
    loop, _ = loader.denoiser(config.pools[0])
    lap("weights")
    dim = json.loads((model / "transformer" / "config.json").read_text("utf-8"))["cap_feat_dim"]
    size = ImageSize(1024, 1024) if torch.cuda.is_available() else ImageSize(64, 64)
    for name in ("first picture", "second picture"):
        warm_up(loop, [size], caption_dim=dim)
        lap(name)
    loop.close()
    print(laps)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--folder", type=Path, default=Path("/dev/shm/zimage-true-size"))
    parser.add_argument("--precisions", nargs="+", default=["auto", "float8"])
    parser.add_argument("--seconds", type=float, default=600.0, help="no part is begun later")
    parser.add_argument("--out", type=Path, default=Path("cold_start.json"))
    parser.add_argument("--tiny", action="store_true", help="tiny models, on the CPU")
    parser.add_argument("--parts-of", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--kernels", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.parts_of is not None:
        print_parts(options.parts_of, options.kernels)
        return 0
    device = torch.device("cpu" if options.tiny else "cuda")
    with tempfile.TemporaryDirectory() as work:
        bench = Bench(options.folder, Path(work), TINY_SIZES if options.tiny else SIZES)
        begun_s = time.monotonic()
        if not options.folder.exists():
            write_true_size(options.folder, device, is_tiny=options.tiny)
            if device.type == "cuda":
                torch.cuda.empty_cache()
        bench.add("weights written", seconds=round(time.monotonic() - begun_s, 1))
        ends_s = begun_s + options.seconds
        has_failed = run_parts(bench, options.precisions, is_tiny=options.tiny, ends_s=ends_s)
        machine = {
            "device": "CPU" if options.tiny else torch.cuda.get_device_name(),
            "torch": torch.__version__,
            "date": datetime.now(UTC).date().isoformat(),
        }
        options.out.write_text(json.dumps({"machine": machine, "rows": bench.rows}, indent=1))
    return int(has_failed)


def run_parts(bench: Bench, precisions: list[str], *, is_tiny: bool, ends_s: float) -> bool:
    """Run all parts; one that fails must not cost the others their time on the device."""
    parts: list[Callable[[], None]] = []
    for precision in ["auto"] if is_tiny else precisions:
        used, filled = (bench.work / f"{kind}-{precision}" for kind in ("used", "filled"))
        start = partial(measure_start, bench)
        parts += [
            partial(start, f"{precision}: nothing compiled", used, precision, warms=False),
            partial(start, f"{precision}: all compiled", used, precision, warms=False),
            partial(start, f"{precision}: all compiled, all sizes", used, precision, warms=True),
        ]
        if precision == "auto":
            parts.append(partial(measure_parts, bench, f"{precision}: a denoiser's start", used))
        if not is_tiny:
            parts.append(partial(measure_warm, bench, f"{precision}: warm", filled, precision))
    has_failed = False
    for part in parts:
        if time.monotonic() > ends_s:
            print("no time left")
            break
        try:
            part()
        except Exception:  # noqa: BLE001
            has_failed = True
            traceback.print_exc()
    return has_failed


if __name__ == "__main__":
    sys.exit(main())

import argparse
from pathlib import Path

import pytest
from PIL import Image

from deployments.simulator.arguments import parse_mix, parse_pool, parse_tile
from deployments.simulator.command import add_plan_arguments, run_plan
from pipeline.tiled_passes import TilingOptions

SHORT = ["--rate", "5", "--duration", "40"]


def plan(*arguments: str) -> tuple[int, list[str]]:
    parser = argparse.ArgumentParser()
    add_plan_arguments(parser)
    lines: list[str] = []
    return run_plan(parser.parse_args([*SHORT, *arguments]), lines.append), lines


def test_a_pool_is_read_with_its_price_and_bounds() -> None:
    pool = parse_pool("GeForce-RTX-4090:fp8=0.35x2-10")
    assert (pool.accelerator, pool.precision, pool.price_per_hour) == (
        "GeForce-RTX-4090",
        "fp8",
        0.35,
    )
    assert (pool.min_replicas, pool.max_replicas) == (2, 10)


def test_a_pool_of_one_size_has_equal_bounds() -> None:
    pool = parse_pool("H100:bf16x7")
    assert (pool.min_replicas, pool.max_replicas, pool.price_per_hour) == (7, 7, None)


@pytest.mark.parametrize("text", ["H100", "H100:int4", "H100:fp8=x", "H100:fp8x3-"])
def test_a_pool_of_another_form_is_refused(text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError, match="a pool must be ACCELERATOR:PRECISION"):
        parse_pool(text)


def test_sizes_are_read_with_their_weights() -> None:
    assert parse_mix("512x768:70,1024x1024") == {(768, 512): 70.0, (1024, 1024): 1.0}


@pytest.mark.parametrize("text", ["512", "512x", "500x512", "512x512:a"])
def test_sizes_of_another_form_are_refused(text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError):
        parse_mix(text)


def test_given_pools_are_simulated_and_reported() -> None:
    exit_code, lines = plan("--pool", "H100:bf16x6")
    assert exit_code == 0
    assert lines[0].endswith("at the median")
    assert lines[3].startswith("h100-bf16 ")


def test_without_pools_the_cheapest_mix_is_searched() -> None:
    exit_code, lines = plan("--offer", "H100:fp8=2.5", "--offer", "H200:fp8=9")
    assert exit_code == 0
    assert lines[0] == "searching mixes of h100-fp8, h200-fp8"
    cheapest = [line for line in lines if line.startswith("cheapest: ")]
    assert cheapest[0].endswith(" x h100-fp8")


def test_a_trace_is_taken_from_a_file(tmp_path: Path) -> None:
    path = tmp_path / "trace.csv"
    path.write_text("time_s,height,width\n0,512,512\n1,512,512\n", encoding="utf-8")
    _, lines = plan("--trace", str(path), "--pool", "H100:bf16x1")
    assert lines[0].startswith("2 requests")


def test_a_tile_is_read_in_image_pixels() -> None:
    assert parse_tile("768") == TilingOptions()


@pytest.mark.parametrize("text", ["0", "1000", "-64", "wide"])
def test_a_tile_whose_overlap_has_no_whole_patches_is_refused(text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError, match="must be positive and divide by 16"):
        parse_tile(text)


def test_a_plot_is_a_png_of_four_panels(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="the extra `plan` is not installed")
    path = tmp_path / "plan.png"
    exit_code, lines = plan("--pool", "H100:bf16x2-9", "--burst", "3", "--plot", str(path))
    assert (exit_code, lines[-1]) == (0, f"plot: {path}")
    with Image.open(path) as picture:
        assert picture.format == "PNG"
        assert min(picture.size) > 1000


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("missing/plot.png", "error: --plot must lie in a folder that exists, got "),
        ("folder.png", "error: --plot must be a file, got the folder "),
        ("plot.docx", "error: --plot must end with one of .png, .svg, .pdf"),
        ("plot", "error: --plot must end with one of .png, .svg, .pdf"),
    ],
)
def test_a_plot_that_cannot_be_written_is_refused_before_the_simulation(
    name: str, message: str, tmp_path: Path
) -> None:
    pytest.importorskip("matplotlib", reason="the extra `plan` is not installed")
    (tmp_path / "folder.png").mkdir()

    exit_code, lines = plan("--pool", "H100:bf16x1", "--plot", str(tmp_path / name))

    assert exit_code == 1
    assert lines[0].startswith(message)
    assert len(lines) == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--pool", "H900:bf16x1"], "error: accelerator must be one of"),
        (["--pool", "GeForce-RTX-3090:fp8x1"], "error: precision fp8 needs fp8 tensor cores"),
        (["--trace", "nowhere.txt"], "error: a trace must be one of"),
        (["--offer", "H100:fp8", "--p95", "0.01"], "error: a mix must reach p95 0.01 s"),
        (["--duration", "0", "--pool", "H100:bf16x1"], "error: a trace must have requests"),
        (
            ["--pool", "H100:bf16x0"],
            "error: --pool must say how many replicas it has, as H100:bf16x2",
        ),
        (["--rate", "1e30"], "error: --rate for --duration must be at most 100000000, got 4e+31"),
    ],
)
def test_what_makes_no_sense_is_said_in_one_line(arguments: list[str], message: str) -> None:
    exit_code, lines = plan(*arguments)
    assert exit_code == 1
    assert lines[-1].startswith(message)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--rate", "-1"], "argument --rate: must be a number of at least 0, got '-1'"),
        (["--rate", "nan"], "argument --rate: must be a number of at least 0, got 'nan'"),
        (["--steps", "0"], "argument --steps: must be a whole number in [1, 50], got '0'"),
        (["--size", "1024x0"], "argument --size: a side must be positive and divide by 16"),
        (["--size", "512x512:0"], "argument --size: a weight must be a number above 0, got '0'"),
        (["--timeout", "0"], "argument --timeout: must be a number above 0, got '0'"),
        (["--duration", "1e9"], "argument --duration: must be a number in [0, 2.6784e+06]"),
        (["--burst", "-2"], "argument --burst: must be a number of at least 0, got '-2'"),
        (["--diurnal", "2"], "argument --diurnal: must be a number in [0, 1], got '2'"),
        (["--seed", "-1"], "argument --seed: must be a whole number of at least 0, got '-1'"),
        (["--p95", "nan"], "argument --p95: must be a number above 0, got 'nan'"),
        (["--within", "99"], "argument --within: must be a number in [0, 1], got '99'"),
        (
            ["--pool", "H100:fp8x1", "--offer", "H100:fp8"],
            "argument --offer: not allowed with argument --pool",
        ),
        (["--start-up", "inf"], "argument --start-up: must be a number of at least 0, got 'inf'"),
    ],
)
def test_an_option_that_makes_no_sense_is_refused_by_its_name(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match="2"):
        plan(*arguments)
    assert f"error: {message}" in capsys.readouterr().err


@pytest.mark.parametrize(
    "rows",
    ["5,1024,1024\n", "5,1024,1024\n" * 40, "1750000000,512,512\n1750000001,512,512\n"],
    ids=["one request", "all at once", "times of the epoch"],
)
def test_a_mix_is_found_for_a_trace_that_is_no_queue(tmp_path: Path, rows: str) -> None:
    path = tmp_path / "trace.csv"
    path.write_text(f"time_s,height,width\n{rows}", encoding="utf-8")
    exit_code, lines = plan("--trace", str(path), "--offer", "H100:fp8")
    assert exit_code == 0, lines
    assert any(line.startswith("cheapest: ") for line in lines)


def test_one_request_takes_one_card(tmp_path: Path) -> None:
    path = tmp_path / "trace.csv"
    path.write_text("time_s,height,width\n0,2048,2048\n", encoding="utf-8")
    _, lines = plan("--trace", str(path), "--offer", "H100:fp8", "--p95", "10")
    assert "cheapest: 1 x h100-fp8" in lines


@pytest.mark.parametrize("offers", [("H100:fp8=2", "H200:fp8=0"), ("H200:fp8=0", "H100:fp8=2")])
def test_an_offer_that_costs_nothing_is_the_cheapest(offers: tuple[str, str]) -> None:
    exit_code, lines = plan("--offer", offers[0], "--offer", offers[1])
    cheapest = [line for line in lines if line.startswith("cheapest: ")]
    assert exit_code == 0
    assert cheapest[0].endswith(" x h200-fp8")
    assert "h100" not in cheapest[0]


@pytest.mark.parametrize("order", [1, -1])
def test_one_card_of_another_kind_is_added_where_that_is_cheapest(order: int) -> None:
    offers = ["H100:bf16=1.5", "GeForce-RTX-4090:fp8=0.9"][::order]
    sizes = "512x512:0.5,2048x2048:0.5"
    load = ("--rate", "6", "--duration", "60", "--size", sizes, "--p95", "6")
    _, lines = plan(*load, "--offer", offers[0], "--offer", offers[1])
    cheapest = next(line for line in lines if line.startswith("cheapest: "))
    assert "1 x h100-bf16" in cheapest
    assert "19 x geforce-rtx-4090-fp8" in cheapest

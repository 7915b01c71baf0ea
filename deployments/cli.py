"""The command `zimage-serve`: what it can do, and which function does it."""

import argparse
import signal
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Final

from deployments.commands.evaluate import add_evaluate_arguments, run_evaluate
from deployments.commands.failure import tell_failure
from deployments.commands.key import run_key_new
from deployments.commands.options import add_key_argument, parse_port
from deployments.commands.top import add_top_arguments, run_top
from deployments.commands.usage import add_usage_arguments, run_usage
from deployments.simulator.command import add_plan_arguments, run_plan

_INTERRUPTED: Final = 128 + signal.SIGINT

_EPILOG = """examples:
  zimage-serve generate "a red circle on a blue background" -o out.png
  zimage-serve run
  zimage-serve run --model Tongyi-MAI/Z-Image-Turbo --store s3://bucket/prefix
  zimage-serve check --config zimage.yaml
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code; of one that Ctrl-C ends, a shell's 130."""
    options = build_parser().parse_args(arguments)
    try:
        exit_code: int = options.run(options)
    except KeyboardInterrupt:
        tell_failure("interrupted")
        return _INTERRUPTED
    return exit_code


def _run_service(options: argparse.Namespace) -> int:
    # Ray and diffusers take seconds to import, which no other command needs.
    from deployments.commands.run import run_service

    return run_service(options)


def _run_generate(options: argparse.Namespace) -> int:
    from deployments.commands.generate import run_generate

    return run_generate(options)


def _run_check(options: argparse.Namespace) -> int:
    from deployments.commands.check import run_check

    return run_check(options)


def _run_warm(options: argparse.Namespace) -> int:
    from deployments.commands.warm import run_warm

    return run_warm(options)


def build_parser() -> argparse.ArgumentParser:
    """Build the parser, with one subparser a command."""
    parser = argparse.ArgumentParser(
        prog="zimage-serve",
        description="Text to image with Z-Image-Turbo on Ray Serve.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    _add_run(commands)
    _add_generate(commands)
    _add_check(commands)
    _add_warm(commands)
    _add_plan(commands)
    _add_evaluate(commands)
    _add_usage(commands)
    _add_top(commands)
    _add_key(commands)
    return parser


def _add_run(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    parser = commands.add_parser(
        "run",
        help="start the whole service on this machine",
        description="Start every deployment, print a URL, and serve until Ctrl-C.",
    )
    _add_configuration(parser)
    _add_store(parser)
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (%(default)s)")
    parser.add_argument("--port", type=parse_port, default=8000, help="port (%(default)s)")
    cluster = parser.add_mutually_exclusive_group()
    cluster.add_argument(
        "--mixed",
        action="store_true",
        help="start a mixed cluster on this machine, of labelled nodes with GPUs in name only, "
        "and show which pictures go where",
    )
    cluster.add_argument(
        "--address",
        help="join the Ray cluster that runs there, instead of starting one on this machine",
    )
    parser.add_argument(
        "--metrics-port",
        type=parse_port,
        metavar="PORT",
        help="port of Ray's Prometheus exporter, where this starts Ray (any free one)",
    )
    parser.add_argument(
        "--insecure-no-keys",
        action="store_true",
        help="let anyone call, though --host is reached from other machines",
    )
    parser.set_defaults(run=_run_service)


def _add_generate(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    parser = commands.add_parser(
        "generate",
        help="draw one picture into a file",
        description="Draw one picture: by a running service if there is one, else in this process.",
    )
    _add_configuration(parser)
    parser.add_argument("prompt", help="what to draw, in any language")
    parser.add_argument(
        "-o",
        "--output",
        type=Path,
        default=Path("out.png"),
        metavar="FILE",
        help="a .png, .jpg or .webp file (%(default)s)",
    )
    parser.add_argument("--size", default="auto", help="WIDTHxHEIGHT, or auto (%(default)s)")
    parser.add_argument("--seed", type=int, help="the same seed draws the same picture")
    parser.add_argument("--steps", type=int, metavar="N", help="denoising steps (the model's own)")
    parser.add_argument(
        "--url",
        help="a running service; http://127.0.0.1:8000 is tried if neither this, --config nor "
        "--model is given",
    )
    add_key_argument(parser)
    parser.set_defaults(run=_run_generate)


def _add_check(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    parser = commands.add_parser(
        "check",
        help="print the configuration and what is wrong with it",
        description="Print configuration, GPUs, model revision, stores, keys and what each Redis "
        "answers; exit with 1 if anything is wrong.",
    )
    _add_configuration(parser)
    _add_store(parser)
    parser.set_defaults(run=_run_check)


def _add_warm(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    parser = commands.add_parser(
        "warm",
        help="compile kernels on this machine's GPU before replicas need them",
        description="Load each stage, draw its warm_sizes, keep what is compiled on the way in "
        "kernel_cache.folder, and put it into kernel_cache.s3 for new replicas.",
    )
    _add_configuration(parser)
    parser.add_argument(
        "--only",
        nargs="+",
        metavar="STAGE",
        help="text_encoder, vae_decoder, or pools by their names (all that there are)",
    )
    parser.set_defaults(run=_run_warm)


def _add_evaluate(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    parser = commands.add_parser(
        "evaluate",
        help="measure how well a running service draws what it is told",
        description="Draw held-out captions through a service and read the pictures back.",
    )
    add_evaluate_arguments(parser)
    parser.set_defaults(run=run_evaluate)


def _add_plan(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    parser = commands.add_parser(
        "plan",
        help="simulate a cluster: latency, deadlines, cost",
        description="Simulate pools under a load, with the service's own decisions.",
    )
    add_plan_arguments(parser)
    parser.set_defaults(run=partial(run_plan, print_line=print))


def _add_usage(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    parser = commands.add_parser(
        "usage",
        help="sum usage records by key, day and model",
        description="Sum exported usage records; each id counts once.",
    )
    add_usage_arguments(parser)
    parser.set_defaults(run=partial(run_usage, print_line=print))


def _add_top(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    parser = commands.add_parser(
        "top",
        help="watch pools, replicas, queues and rates",
        description="Show what Ray's exporters say of the service, each second until Ctrl-C.",
    )
    add_top_arguments(parser)
    parser.set_defaults(run=partial(run_top, print_line=print))


def _add_key(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    parser = commands.add_parser("key", help="make keys for callers")
    subcommands = parser.add_subparsers(metavar="COMMAND", required=True)
    new = subcommands.add_parser(
        "new",
        help="draw a key, and print it once with its entry for the file",
        description="Draw a key. It is shown this once; keys.file keeps a salted hash of it.",
    )
    new.add_argument("--name", required=True, help="who calls: 1 to 32 of a-z, 0-9 and -")
    new.set_defaults(run=run_key_new)


def _add_configuration(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--config", type=Path, metavar="FILE", help="a YAML file; ZIMAGE_ variables win over it"
    )
    parser.add_argument(
        "--model", metavar="FOLDER_OR_ID", help="a folder in diffusers' layout, or an id of the hub"
    )
    parser.set_defaults(store=None)


def _add_store(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--store", metavar="FOLDER_OR_S3", help="a folder, or s3://bucket/prefix")


if __name__ == "__main__":
    sys.exit(main())

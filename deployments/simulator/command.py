"""`zimage-serve plan`: simulate the pools that are given, or search the cheapest that will do."""

import argparse
from collections.abc import Callable

from deployments.simulator.arguments import add_plan_arguments, build_plan, build_trace
from deployments.simulator.dispatch import CostDispatcher
from deployments.simulator.errors import PlanError
from deployments.simulator.outcome import Outcome
from deployments.simulator.plans import ServicePlan
from deployments.simulator.plots import check_plot, save_plot
from deployments.simulator.report import format_report, summarise
from deployments.simulator.search import NOISE, Target, format_counts, search_mix, size_plan
from deployments.simulator.simulation import Simulation
from deployments.simulator.traces import Trace

__all__ = ["add_plan_arguments", "run_plan"]


def run_plan(options: argparse.Namespace, print_line: Callable[[str], None]) -> int:
    """Answer the question that the options ask, and return the exit code.

    Args:
        options: Of a parser that went through `add_plan_arguments`.
        print_line: Takes the answer, a line at a time.
    """
    try:
        if options.plot is not None:
            check_plot(options.plot)
        trace = build_trace(options)
        plan = build_plan(options, trace)
        if not options.pool:
            plan = _search(options, plan, trace, print_line)
        outcome = _simulate(plan, trace, options.seed)
        for line in format_report(summarise(outcome)):
            print_line(line)
        if options.plot is not None:
            save_plot(outcome, options.plot, p95_s=options.p95)
            print_line(f"plot: {options.plot}")
    except PlanError as exc:
        print_line(f"error: {exc}")
        return 1
    return 0


def _search(
    options: argparse.Namespace,
    plan: ServicePlan,
    trace: Trace,
    print_line: Callable[[str], None],
) -> ServicePlan:
    print_line(f"searching mixes of {', '.join(pool.traits.name for pool in plan.pools)}")
    target = Target(options.p95, options.within)
    mix = search_mix(plan, trace, target, lambda line: print_line(f"  {line}"))
    print_line(f"cheapest: {format_counts(mix.counts)}")
    return size_plan(plan, mix.counts)


def _simulate(plan: ServicePlan, trace: Trace, seed: int) -> Outcome:
    return Simulation(plan, trace, CostDispatcher(plan.routing), noise=NOISE, seed=seed).run()

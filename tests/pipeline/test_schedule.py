"""The schedule is diffusers' own, bit for bit."""

import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler

from pipeline.schedule import build_schedule


@pytest.mark.parametrize("num_inference_steps", [1, 2, 4, 8, 9, 13, 28, 50])
def test_sigmas_equal_those_of_diffusers(num_inference_steps: int) -> None:
    scheduler = FlowMatchEulerDiscreteScheduler(num_train_timesteps=1000, shift=3.0)
    linear = torch.linspace(1.0, 1 / num_inference_steps, num_inference_steps).tolist()
    scheduler.set_timesteps(sigmas=linear)

    assert build_schedule(num_inference_steps).sigmas == tuple(scheduler.sigmas.tolist())


def test_eight_steps_are_eight_forwards() -> None:
    assert build_schedule(8).num_inference_steps == 8


@pytest.mark.parametrize("step", range(8))
def test_the_model_time_equals_that_of_diffusers(step: int) -> None:
    scheduler = FlowMatchEulerDiscreteScheduler(num_train_timesteps=1000, shift=3.0)
    scheduler.set_timesteps(sigmas=torch.linspace(1.0, 1 / 8, 8).tolist())
    expected = float((1000 - scheduler.timesteps[step]) / 1000)

    assert build_schedule(8).model_time(step) == expected


@pytest.mark.parametrize("step", range(8))
def test_an_euler_step_equals_that_of_diffusers(step: int) -> None:
    scheduler = FlowMatchEulerDiscreteScheduler(num_train_timesteps=1000, shift=3.0)
    scheduler.set_timesteps(sigmas=torch.linspace(1.0, 1 / 8, 8).tolist())
    scheduler.set_begin_index(step)
    latents, velocity = torch.randn(2, 1, 16, 8, 8, generator=torch.Generator().manual_seed(step))
    expected = scheduler.step(velocity, scheduler.timesteps[step], latents, return_dict=False)[0]

    assert torch.equal(build_schedule(8).advance(latents, velocity, step), expected)

"""The time of a compiled step follows from its plan, the speeds of a device, and what programs reach of them."""

from __future__ import annotations

from dataclasses import replace

import pytest

from halcyon.models.flops import ModelFlops
from halcyon.step.hlo.contents import Call, Product
from halcyon.step.hlo.work import Shares, Work
from halcyon.step.step_time import PlannedTime, StepTime, kernel_flops, step_time
from tests.trainer.step.plans import COMPILED, FLOPS, RATES

IDEAL = Shares(products=1, kernels=1, memory=1, links=1)


def test_the_time_of_a_step_is_the_sum_of_its_parts_and_what_it_waits_for() -> None:
    found = step_time(COMPILED, FLOPS, RATES, IDEAL)
    assert found.ideal_seconds == found.seconds == 4 + 1 + 2 + 1
    # 64 tokens of 100 operations, 15 of them hidden, on 8 devices of 100 operations a second.
    assert found.ceiling == found.mfu == pytest.approx(0.85)
    assert ([part.name for part in found.parts], found.bound) == (
        ["mlp", "other", "attention", "collectives"],
        "products",
    )
    slower = step_time(COMPILED, FLOPS, RATES, replace(IDEAL, memory=0.5, links=0.25))
    assert (slower.ideal_seconds, slower.seconds) == (8, 4 + 2 + 4 + 4)


def test_kernels_have_the_operations_that_a_program_does_not_state() -> None:
    """A third of training's operations is the forward pass, of which a causal kernel computes half; the backward pass
    has five products instead of two."""
    call = Call("mosaic_gpu_v2", "attended", "forward", "attention", (), 1)
    forward = 8 * 30 / 3 / 2
    assert kernel_flops(COMPILED, FLOPS) == {}
    assert kernel_flops(replace(COMPILED, calls=(call,)), FLOPS) == {"attention": pytest.approx(3.5 * forward)}
    again = replace(call, phase="recomputed")
    assert kernel_flops(replace(COMPILED, calls=(call, again)), FLOPS) == {"attention": pytest.approx(4.5 * forward)}
    # Compiled for another platform, whose attention is no kernel: its bytes are not those of the kernel.
    part = next(
        part for part in step_time(COMPILED, FLOPS, RATES, IDEAL, own_kernel=True).parts if part.name == "attention"
    )
    assert (part.bound, part.seconds, part.moved_bytes) == ("kernels", pytest.approx(3.5 * forward / 100), 0)


def test_no_program_does_more_than_its_peak() -> None:
    """What MFU counts is in every program: visible positions, gradients of trained weights, narrow products at the rate
    of their type. So the program that does nothing else reaches 1."""
    call = Call("mosaic_gpu_v2", "attended", "forward", "attention", (), 1)

    def least(flops: ModelFlops, *products: Product) -> StepTime:
        work = tuple(Work("mlp", seconds * 100, 0.0, seconds) for seconds in (8 * flops.products / 100,))
        narrow = sum(one.flops for one in products if one.dtype != "bf16") / 2 / 100
        work = (replace(work[0], product_seconds=work[0].product_seconds - narrow), Work("attention"))
        plan = replace(COMPILED, calls=(call,), work=work, overlap=None, products=products)
        return step_time(plan, flops, RATES, IDEAL)

    wide = Product("bf16", 0, 1, 1, 140)
    backward = 3.5 / 3  # a kernel computes the scores again
    assert least(FLOPS, wide).ceiling == pytest.approx(85 / (70 + 15 * backward))
    assert least(replace(FLOPS, attention=0, hidden=0)).ceiling == pytest.approx(1)
    assert least(replace(FLOPS, attention=0, hidden=0, frozen=30)).ceiling == pytest.approx(1)
    eight = least(
        replace(FLOPS, attention=0, hidden=0), *(replace(wide, dtype=name, flops=400) for name in ("f8e4m3fn", "bf16"))
    )
    assert eight.ceiling == pytest.approx(1)


def test_short_kernels_take_the_time_of_their_launches() -> None:
    """The device waits where its host needs longer for the launches than the device for the kernels."""
    work = tuple(replace(one, kernels=100) for one in COMPILED.work)
    launching = replace(RATES, launch=0.02, dispatch=4.0)
    found = step_time(replace(COMPILED, work=work), FLOPS, launching, IDEAL)
    part = next(part for part in found.parts if part.name == "launches")
    assert (part.bound, part.ideal_seconds, part.seconds) == ("host", 0, pytest.approx(10 - 8))
    assert (found.seconds, found.ideal_seconds) == (pytest.approx(10), 8)
    assert step_time(COMPILED, FLOPS, launching, IDEAL).seconds == 8, "long kernels hide the launches"


def test_copies_between_a_device_and_its_host_take_time() -> None:
    """What is in the host's memory comes to the device for the update and goes back."""
    offloaded = replace(COMPILED, memory=replace(COMPILED.memory, offloaded=50))
    without = step_time(COMPILED, FLOPS, RATES, replace(IDEAL, host_copy=20))
    found = step_time(offloaded, FLOPS, RATES, replace(IDEAL, host_copy=20))
    part = next(part for part in found.parts if part.name == "offload")
    assert (part.bound, part.moved_bytes, part.ideal_seconds, part.seconds) == ("host", 100, 0, 5)
    assert (found.seconds, found.ideal_seconds) == (without.seconds + 5, without.ideal_seconds)
    kept = replace(COMPILED, memory=replace(COMPILED.memory, kept_on_host=50))  # beside the computation of the blocks
    assert step_time(kept, FLOPS, RATES, replace(IDEAL, host_copy=20)).seconds == max(without.seconds, 5)
    slow = step_time(kept, FLOPS, RATES, replace(IDEAL, host_copy=0.1)).seconds
    assert slow == pytest.approx(1000)


def test_fewer_microbatches_save_a_part_of_the_waiting_and_a_policy_computes_again() -> None:
    """The plan has 4 microbatches and waits 1 second for links, of which programs reach 0.8."""
    time, forward = PlannedTime(COMPILED, replace(FLOPS, head=10), RATES), 8 / 100 / 3
    whole = time.step.seconds
    assert time.least_with(4, "dots") == whole
    assert time.least_with(1, "dots") == time.least_with(1, "none") == pytest.approx(whole - 1.25 * 3 / 4)
    products, attention = forward * 60 / 0.73, forward * 30 / 2 / 0.38
    assert time.least_with(2, "attention") == pytest.approx(whole - 1.25 / 2 + products)
    assert time.least_with(1, "full") == pytest.approx(whole - 1.25 * 3 / 4 + products + attention)
    recomputing = replace(time, plan=replace(COMPILED, remat="attention"))
    assert recomputing.least_with(4, "full") == pytest.approx(recomputing.step.seconds + attention)

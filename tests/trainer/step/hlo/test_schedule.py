"""The share of the time of collectives that computation covers."""

from __future__ import annotations

from dataclasses import replace

import pytest

from halcyon.step.device_use import Traffic, traffic_of
from halcyon.step.hlo.collectives import Collective, collectives
from halcyon.step.hlo.module import parse
from halcyon.step.hlo.schedule import Overlap, collective_seconds, crosses, overlap, sent_bytes
from halcyon.step.hlo.work import Rates, work_by_part
from tests.trainer.step.hlo.programs import scheduled

MIB = 2**20
RATES = Rates(flops=1e12, memory=1e30, links=64 * MIB)
"""A gather of %w takes 7/8 of a second; memory takes no time."""
START = (
    "%g = ((bf16[512,8192]{1,0}), bf16[4096,8192]{1,0}) all-gather-start(%part), replica_groups=[1,8]<=[8], "
    "dimensions={0}"
)
DONE = "%d = bf16[4096,8192]{1,0} all-gather-done(%g)"
PART = "%part = bf16[512,8192]{1,0} bitcast(%w)"
WORK = "%p = bf16[8192,8192]{1,0} dot(%w, %w), lhs_contracting_dims={0}, rhs_contracting_dims={0}"
SECONDS = 2 * 8192 * 8192 * 4096 / RATES.flops
"""Of the product: more than half a second."""


def of(*lines: str) -> Overlap:
    return overlap(parse(scheduled(*lines)), RATES, 8)


def test_a_gather_with_a_product_between_start_and_done_is_covered_by_it() -> None:
    found = of(PART, START, WORK, DONE)
    assert found.collectives == pytest.approx(7 / 8)
    assert found.computation == pytest.approx(SECONDS)
    assert found.covered == pytest.approx(SECONDS / (7 / 8))


def test_a_gather_with_nothing_between_start_and_done_covers_nothing() -> None:
    assert of(PART, START, DONE, WORK).covered == pytest.approx(0)


def test_a_collective_of_one_instruction_is_waited_for() -> None:
    found = of("%g = bf16[4096,8192]{1,0} all-gather(%x), replica_groups=[1,8]<=[8], dimensions={0}", WORK)
    assert (found.waited, found.covered) == (pytest.approx(7 / 8), pytest.approx(0))


def test_collectives_in_flight_share_the_links() -> None:
    second = START.replace("%g =", "%h ="), DONE.replace("%d =", "%e =").replace("%g)", "%h)")
    found = of(PART, START, second[0], WORK, DONE, second[1])
    assert found.collectives == pytest.approx(2 * 7 / 8)
    assert found.waited == pytest.approx(2 * 7 / 8 - SECONDS)


def test_a_program_without_collectives_has_no_share() -> None:
    assert of(WORK).covered is None


LOOP = """HloModule jit_step, is_scheduled=true

%body (carry: (s32[], bf16[4096,8192])) -> (s32[], bf16[4096,8192]) {
  %w = bf16[4096,8192]{1,0} parameter(0)
  %part = bf16[512,8192]{1,0} bitcast(%w)
  LINES
}

%condition (carry: (s32[], bf16[4096,8192])) -> pred[] {
  ROOT %less = pred[] compare(%a, %b), direction=LT
}

ENTRY %main (w: bf16[4096,8192]) -> bf16[4096,8192] {
  %w = bf16[4096,8192]{1,0} parameter(0)
  ROOT %loop = (s32[], bf16[4096,8192]{1,0}) while(%w), condition=%condition, body=%body, backend_config={"known_trip_count":{"n":"3"}}
}
"""


def test_a_loop_counts_once_for_each_iteration() -> None:
    found = overlap(parse(LOOP.replace("LINES", "\n  ".join((START, WORK, DONE)))), RATES, 8)
    assert found.computation == pytest.approx(3 * SECONDS)
    assert found.waited == pytest.approx(3 * (7 / 8 - SECONDS))


FUSED = """HloModule jit_step, is_scheduled=true

%all-reduce-scatter.1 (x: bf16[4096,8192]) -> bf16[512,8192] {
  %x = bf16[4096,8192]{1,0} parameter(0)
  %sum = bf16[4096,8192]{1,0} all-reduce(%x), replica_groups=[1,8]<=[8], to_apply=%add
  ROOT %part = bf16[512,8192]{1,0} dynamic-slice(%sum, %x)
}

ENTRY %main (w: bf16[4096,8192]) -> bf16[512,8192] {
  %w = bf16[4096,8192]{1,0} parameter(0)
  ROOT %f = bf16[512,8192]{1,0} fusion(%w), kind=kCustom, calls=%all-reduce-scatter.1
}
"""


def test_a_sum_inside_a_fusion_is_waited_for() -> None:
    found = overlap(parse(FUSED), RATES, 8)
    assert (found.collectives, found.covered) == (pytest.approx(7 / 8), pytest.approx(0))


def test_memory_counts_only_the_part_that_a_fusion_slices_or_updates() -> None:
    text = """HloModule jit_step, is_scheduled=true

%fused (stack: f32[64,1024], one: f32[1,1024], i: s32[]) -> f32[64,1024] {
  %stack = f32[64,1024]{1,0} parameter(0)
  %one = f32[1,1024]{1,0} parameter(1)
  %i = s32[] parameter(2)
  ROOT %update = f32[64,1024]{1,0} dynamic-update-slice(%stack, %one, %i, %i)
}

ENTRY %main (stack: f32[64,1024], one: f32[1,1024], i: s32[]) -> f32[64,1024] {
  %stack = f32[64,1024]{1,0} parameter(0)
  %one = f32[1,1024]{1,0} parameter(1)
  %i = s32[] parameter(2)
  ROOT %f = f32[64,1024]{1,0} fusion(%stack, %one, %i), kind=kLoop, calls=%fused
}
"""
    found = overlap(parse(text), Rates(1, 1, 1), 1)
    assert found.computation == 2 * 4096 + 4  # the row is read and written, and its number is read


@pytest.mark.parametrize(
    ("kind", "sent"),
    [
        ("all-gather", 7 / 8),
        ("reduce-scatter", 7 / 8),
        ("all-reduce", 14 / 8),
        ("all-to-all", 7 / 8),
        ("collective-permute", 1),
    ],
)
def test_a_device_sends_what_the_ring_algorithms_send(kind: str, sent: float) -> None:
    assert sent_bytes(Collective(kind, "u8", (MIB,), 0, 1, (tuple(range(8)),)), 8) == sent * MIB
    assert sent_bytes(Collective(kind, "u8", (MIB,), 0), 8) == sent * MIB


def test_a_fusion_without_a_name_has_the_part_of_the_product_inside_it() -> None:
    """XLA calls a library's product inside a fusion that slices its factors."""
    text = """HloModule jit_step, is_scheduled=true

%sliced (w: bf16[8192,8192]) -> bf16[8192,8192] {
  %w = bf16[8192,8192]{1,0} parameter(0)
  %p = bf16[8192,8192]{1,0} dot(%w, %w), lhs_contracting_dims={0}, rhs_contracting_dims={0}, metadata={op_name="jit(step)/jvp(head)/dot_general"}
  ROOT %c = bf16[8192,8192]{1,0} copy(%p)
}

ENTRY %main (w: bf16[8192,8192]) -> bf16[8192,8192] {
  %w = bf16[8192,8192]{1,0} parameter(0)
  ROOT %f = bf16[8192,8192]{1,0} fusion(%w), kind=kCustom, calls=%sliced
}
"""
    (found,) = work_by_part(parse(text), RATES)
    assert (found.part, found.flops) == ("head", 2 * 8192**3)


def test_a_fusion_inside_a_fusion_reads_and_writes_the_slices_alone() -> None:
    """A block of a loop takes its input from the stack of all blocks, and writes its own into it."""
    text = """HloModule jit_step, is_scheduled=true

%slice (all: f32[80,1000], at: s32[]) -> f32[1,1000] {
  %at = s32[] parameter(1)
  %all = f32[80,1000]{1,0} parameter(0)
  ROOT %one = f32[1,1000]{1,0} dynamic-slice(%all, %at, %at), dynamic_slice_sizes={1,1000}
}

%update (all: f32[80,1000], one: f32[1,1000], at: s32[]) -> f32[80,1000] {
  %at.2 = s32[] parameter(2)
  %one.2 = f32[1,1000]{1,0} parameter(1)
  %all.2 = f32[80,1000]{1,0} parameter(0)
  ROOT %new = f32[80,1000]{1,0} dynamic-update-slice(%all.2, %one.2, %at.2, %at.2)
}

%both (at: s32[], kept: f32[80,1000], into: f32[80,1000]) -> f32[80,1000] {
  %into = f32[80,1000]{1,0} parameter(2)
  %at.3 = s32[] parameter(0)
  %kept = f32[80,1000]{1,0} parameter(1)
  %row = f32[1,1000]{1,0} fusion(%kept, %at.3), kind=kLoop, calls=%slice
  %twice = f32[1,1000]{1,0} add(%row, %row)
  ROOT %written = f32[80,1000]{1,0} fusion(%into, %twice, %at.3), kind=kLoop, calls=%update
}

ENTRY %main (kept: f32[80,1000], into: f32[80,1000], at: s32[]) -> f32[80,1000] {
  %kept.4 = f32[80,1000]{1,0} parameter(0)
  %into.4 = f32[80,1000]{1,0} parameter(1)
  %at.4 = s32[] parameter(2)
  ROOT %f = f32[80,1000]{1,0} fusion(%at.4, %kept.4, %into.4), kind=kOutput, calls=%both
}
"""
    (found,) = work_by_part(parse(text), RATES)
    assert found.moved_bytes == pytest.approx(4 * 1000 + 4 * 1000, abs=16)


def test_a_fusion_that_casts_a_table_reads_only_the_rows_that_it_takes() -> None:
    text = """HloModule jit_step, is_scheduled=true

%rows (table: f32[6,1000,8], at: s32[4,1]) -> bf16[4,8] {
  %at = s32[4,1]{1,0} parameter(1)
  %table = f32[6,1000,8]{2,1,0} parameter(0)
  %cast = bf16[6,1000,8]{2,1,0} convert(%table)
  %one = bf16[1,1000,8]{2,1,0} slice(%cast), slice={[2:3], [0:1000], [0:8]}
  %words = bf16[1000,8]{1,0} bitcast(%one)
  ROOT %found = bf16[4,8]{1,0} gather(%words, %at), offset_dims={1}, collapsed_slice_dims={0}, start_index_map={0}, index_vector_dim=1, slice_sizes={1,8}
}

ENTRY %main (table: f32[6,1000,8], at: s32[4,1]) -> bf16[4,8] {
  %table.2 = f32[6,1000,8]{2,1,0} parameter(0)
  %at.2 = s32[4,1]{1,0} parameter(1)
  ROOT %f = bf16[4,8]{1,0} fusion(%table.2, %at.2), kind=kLoop, calls=%rows
}
"""
    (found,) = work_by_part(parse(text), RATES)
    assert found.moved_bytes == 4 * 8 * 4 + 4 * 4 + 4 * 8 * 2


ISLANDS = Rates(flops=1e12, memory=1e30, links=8 * MIB, network=MIB, island=4)
"""Two islands of four devices; the links within one are eight times as fast as those of a device to the other."""


@pytest.mark.parametrize(
    ("groups", "kind", "between", "seconds"),
    [
        (((0, 1, 2, 3), (4, 5, 6, 7)), "all-gather", False, 3 / 4 / 8),
        # Each of the four devices of an island sends a quarter of the half that the other island lacks.
        ((tuple(range(8)),), "all-gather", True, 1 / 8),
        ((tuple(range(8)),), "all-reduce", True, 2 / 8),
        (((0, 4), (1, 5), (2, 6), (3, 7)), "all-reduce", True, 1),
        (((0, 4),), "collective-permute", True, 1),
        ((), "all-gather", True, 1 / 8),
    ],
)
def test_exchange_between_islands_takes_the_time_of_the_network(
    groups: tuple[tuple[int, ...], ...], kind: str, between: bool, seconds: float
) -> None:
    one = Collective(kind, "u8", (MIB,), 0, 1, groups)
    assert crosses(one, 8, ISLANDS.island) is between
    assert collective_seconds(one, 8, ISLANDS) == pytest.approx(seconds)
    assert collective_seconds(one, 8, replace(ISLANDS, latency=3.0)) == pytest.approx(3 + seconds)
    (row,) = traffic_of([one], ("replica", "fsdp"), (2, 4), island=ISLANDS.island)
    assert row.between is between


def test_the_work_of_a_step_is_divided_among_its_parts() -> None:
    """A product belongs to the part whose name its operation has, as often as a loop runs it."""
    named = ', metadata={op_name="jit(train_step)/jvp(mlp)/dot_general"}'
    text = LOOP.replace("LINES", "\n  ".join((WORK + named, "%c = bf16[4096,8192]{1,0} copy(%w)")))
    rates = Rates(flops=1e12, memory=1e9, links=1.0)
    found = {work.part: work for work in work_by_part(parse(text), rates)}
    assert found["mlp"].product_seconds == pytest.approx(3 * SECONDS)
    assert found["mlp"].flops == pytest.approx(3 * SECONDS * 1e12)
    assert (found["mlp"].memory_seconds, found["other"].flops) == (0, 0)
    assert found["other"].memory_seconds == pytest.approx(3 * 2 * 64 * MIB / 1e9, rel=1e-6)
    assert found["mlp"].kernels == 3


def test_a_call_beside_the_program_is_an_asynchronous_collective() -> None:
    """TPUs compute some collectives on their sparse cores."""
    text = scheduled(
        '%s = ((), (), s32[1]{0}) call-start(), async_execution_thread="sparsecore", to_apply=%called',
        "%u = ((bf16[4096,8192]{1,0}), bf16[512,8192]{1,0}) call-update(%s, %w)",
        WORK,
        "%d = bf16[512,8192]{1,0} call-done(%u)",
        WORK.replace("%p =", "%after ="),
    ).replace(
        "ENTRY",
        """%called (a: bf16[4096,8192]) -> bf16[512,8192] {
  %a = bf16[4096,8192]{1,0} parameter(0)
  ROOT %r = bf16[512,8192]{1,0} reduce-scatter(%a), channel_id=1, replica_groups=[1,8]<=[8], dimensions={0}, to_apply=%add
}, execution_thread="sparsecore"

ENTRY""",
    )
    found = overlap(parse(text), RATES, 8)
    assert found.collectives == pytest.approx(7 / 8)
    assert found.covered == pytest.approx(SECONDS / (7 / 8))


PARTS = """HloModule jit_step, is_scheduled=true

%first (a: bf16[512,8192]) -> bf16[4096,8192] {
  %a = bf16[512,8192]{1,0} parameter(0)
  ROOT %g = bf16[4096,8192]{1,0} all-gather(%a), channel_id=9, replica_groups=[1,8]<=[8], dimensions={0}
}

%second (a: bf16[512,8192], w: bf16[4096,8192]) -> bf16[8192,8192] {
  %a = bf16[512,8192]{1,0} parameter(0)
  %w = bf16[4096,8192]{1,0} parameter(1)
  %g = bf16[4096,8192]{1,0} all-gather(%a), channel_id=9, replica_groups=[1,8]<=[8], dimensions={0}
  ROOT %p = bf16[8192,8192]{1,0} dot(%w, %w), lhs_contracting_dims={0}, rhs_contracting_dims={0}
}

ENTRY %main (a: bf16[512,8192], w: bf16[4096,8192]) -> bf16[4096,8192] {
  %a = bf16[512,8192]{1,0} parameter(0)
  %w = bf16[4096,8192]{1,0} parameter(1)
  %start = bf16[4096,8192]{1,0} fusion(%a), kind=kCustom, calls=%first
  %step = bf16[8192,8192]{1,0} fusion(%a, %w), kind=kCustom, calls=%second
  ROOT %done = bf16[4096,8192]{1,0} fusion(%a), kind=kCustom, calls=%first
}
"""


def test_parts_of_a_collective_in_several_fusions_are_one_collective() -> None:
    found = overlap(parse(PARTS), RATES, 8)
    assert found.collectives == pytest.approx(7 / 8)
    assert found.covered == pytest.approx(SECONDS / (7 / 8))
    assert {one.part_of for one in collectives(PARTS)} == {9}
    assert traffic_of(collectives(PARTS), ("fsdp",), (8,)) == (
        Traffic("all-gather", ("fsdp",), 1, 64 * MIB, 0, 64 * MIB, sent_bytes=56 * MIB),
    )

"""Bytes, loops and mesh axes of the collectives of a program."""

from __future__ import annotations

import pytest

from halcyon.step.hlo.collectives import Collective, collectives

NAMES, SIZES = ("replica", "fsdp", "tensor"), (2, 2, 2)

HLO = """HloModule jit_step

%add (x: f32[], y: f32[]) -> f32[] {
  ROOT %sum = f32[] add(%x, %y)
}

%body (carry: (s32[], f32[8,4])) -> (s32[], f32[8,4]) {
  %part = f32[4,4]{1,0} copy(%given)
  %gathered = f32[8,4]{1,0} all-gather(%part), channel_id=1, replica_groups=[4,2]<=[2,2,2]T(0,2,1), use_global_device_ids=true
  ROOT %result = (s32[], f32[8,4]) tuple(%number, %gathered)
}

%condition (carry: (s32[], f32[8,4])) -> pred[] {
  ROOT %less = pred[] compare(%number, %limit), direction=LT
}

ENTRY %main (x: bf16[16]) -> bf16[16] {
  %loop = (s32[], f32[8,4]) while(%start), condition=%condition, body=%body, backend_config={"known_trip_count":{"n":"5"}}
  %sent = bf16[16]{0} collective-permute(%x), channel_id=3, source_target_pairs={{0,4},{4,0},{1,5},{5,1}}
  ROOT %all = bf16[16]{0} all-reduce(%sent), channel_id=2, replica_groups={{0,1,2,3},{4,5,6,7}}, to_apply=%add
}
"""


def test_a_collective_in_a_loop_counts_once_for_each_iteration() -> None:
    gather, sent, reduce = collectives(HLO)
    assert (gather.kind, gather.depth, gather.times, gather.size_bytes) == ("all-gather", 1, 5, 128)
    assert (sent.kind, sent.depth, sent.times, sent.size_bytes) == ("collective-permute", 0, 1, 32)
    assert (reduce.kind, reduce.times, reduce.size_bytes) == ("all-reduce", 1, 32)


TPU = """HloModule jit_step

%all-reduce-scatter.2 (x: bf16[8,4]) -> bf16[4,4] {
  %sum = bf16[8,4]{1,0:T(8,128)(2,1)} all-reduce(%x), channel_id=26, replica_groups={{0,1},{2,3},{4,5},{6,7}}, to_apply=%add
  ROOT %part = bf16[4,4]{1,0} dynamic-slice(%sum, %first, %second), dynamic_slice_sizes={4,4}
}

%body (carry: (s32[], bf16[4,4])) -> (s32[], bf16[4,4]) {
  %scattered = bf16[4,4]{1,0} fusion(%x), kind=kCustom, calls=%all-reduce-scatter.2
  ROOT %result = (s32[], bf16[4,4]) tuple(%number, %scattered)
}

%condition (carry: (s32[], bf16[4,4])) -> pred[] {
  %limit.1 = s32[]{:T(128)} constant(8)
  ROOT %less = pred[]{:T(512)} compare(%number, %limit.1), direction=LT, metadata={op_name="lt"}
}

ENTRY %main (x: bf16[4,4]) -> bf16[4,4] {
  ROOT %loop = (s32[], bf16[4,4]) while(%start), condition=%condition, body=%body, metadata={op_name="while"}
}
"""


def test_loops_and_scattered_sums_are_read_from_programs_for_tpus_too() -> None:
    (found,) = collectives(TPU)
    assert (found.kind, found.depth, found.times, found.size_bytes) == ("reduce-scatter", 1, 8, 64)
    assert found.axes(NAMES, SIZES) == ("tensor",)


def test_groups_of_devices_are_mesh_axes() -> None:
    assert [one.axes(NAMES, SIZES) for one in collectives(HLO)] == [("fsdp",), ("replica",), ("fsdp", "tensor")]


@pytest.mark.parametrize(
    ("groups", "axes"),
    [
        (((0, 1), (2, 3), (4, 5), (6, 7)), ("tensor",)),
        (((0, 4), (1, 5), (2, 6), (3, 7)), ("replica",)),
        (((0, 2, 4, 6), (1, 3, 5, 7)), ("replica", "fsdp")),
        (((0,), (1,)), ()),
        ((), NAMES),
    ],
)
def test_the_axes_are_those_along_which_a_group_differs(
    groups: tuple[tuple[int, ...], ...], axes: tuple[str, ...]
) -> None:
    assert Collective("all-reduce", "f32", (4,), 0, 1, groups).axes(NAMES, SIZES) == axes


@pytest.mark.parametrize(
    ("written", "axes"),
    [
        ("{{0,1},{2,3},{4,5},{6,7}}", ("tensor",)),
        ("[4,2]<=[8]", ("tensor",)),
        ("[2,4]<=[4,2]T(1,0)", ("replica", "fsdp")),
        ("mesh['axis_0'=2,'axis_1'=4,'axis_2'=1] {'axis_1'}", ("fsdp", "tensor")),
        ("mesh['axis_0'=4,'axis_1'=1,'axis_2'=2], device_ids=([2,4]T(1,0)) {'axis_0'}", ("fsdp", "tensor")),
        ("mesh['axis_0'=4,'axis_1'=1,'axis_2'=2], device_ids=([2,4]T(1,0)) {'axis_2'}", ("replica",)),
        ("{}", NAMES),
        ("another notation", ("unknown",)),
    ],
)
def test_groups_are_read_in_all_notations_of_hlo(written: str, axes: tuple[str, ...]) -> None:
    text = HLO.replace("replica_groups={{0,1,2,3},{4,5,6,7}}", f"replica_groups={written}")
    assert collectives(text)[-1].axes(NAMES, SIZES) == axes

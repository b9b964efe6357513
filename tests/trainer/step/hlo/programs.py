"""Texts of small programs, as XLA writes them for GPUs and TPUs."""

from __future__ import annotations

GPU = """HloModule jit_step, is_scheduled=true

%fused_convert (param_0: bf16[128,64]) -> f8e4m3fn[128,64] {
  %param_0 = bf16[128,64]{1,0} parameter(0)
  ROOT %convert = f8e4m3fn[128,64]{1,0} convert(%param_0)
}

%inner (carry: (s32[], f32[64])) -> (s32[], f32[64]) {
  %carry = (s32[], f32[64]{0}) parameter(0)
  %row = f32[64]{0} get-tuple-element(%carry), index=1
  %call.3 = (f32[64]{0}, s8[4096]{0}) custom-call(%row, %row), custom_call_target="__cublas$gemm", metadata={op_name="jit(step)/transpose(jvp(attention))/while/body/dot"}, backend_config={"gemm_backend_config":{"dot_dimension_numbers":{"lhs_contracting_dimensions":["0"]}}}
  ROOT %next = (s32[], f32[64]{0}) tuple(%carry, %call.3)
}

%unknown (carry: (s32[], f32[64])) -> pred[] {
  %carry = (s32[], f32[64]{0}) parameter(0)
  ROOT %more = pred[] fusion(%carry), kind=kLoop, calls=%fused_convert
}

%body (carry: (s32[], bf16[128,64])) -> (s32[], bf16[128,64]) {
  %carry = (s32[], bf16[128,64]{1,0}) parameter(0)
  %x = bf16[128,64]{1,0} get-tuple-element(%carry), index=1
  %narrow = f8e4m3fn[128,64]{1,0} fusion(%x), kind=kLoop, calls=%fused_convert
  %weight = f8e4m3fn[64,32]{1,0} constant({...})
  %product.1 = (bf16[128,32]{1,0}, s8[4096]{0}) custom-call(%narrow, %weight), custom_call_target="__cublas$lt$matmul$f8", metadata={op_name="jit(step)/jvp()/dot_general"}, backend_config={"gemm_backend_config":{"selected_algorithm":"0","dot_dimension_numbers":{"lhs_contracting_dimensions":["1"],"rhs_contracting_dimensions":["0"]}}}
  %attended.2 = bf16[128,64]{1,0} custom-call(%x), custom_call_target="mosaic_gpu_v2", metadata={op_name="jit(step)/transpose(jvp(attention))/rematted_computation/pallas_call"}
  %loop.1 = (s32[], f32[64]{0}) while(%carry), condition=%unknown, body=%inner, metadata={op_name="jit(step)/transpose(jvp(attention))/while"}
  ROOT %result = (s32[], bf16[128,64]{1,0}) tuple(%carry, %attended.2)
}

%condition (carry: (s32[], bf16[128,64])) -> pred[] {
  %carry = (s32[], bf16[128,64]{1,0}) parameter(0)
  ROOT %less = pred[] compare(%carry, %carry), direction=LT
}

ENTRY %main (x: bf16[128,64]) -> bf16[128,64] {
  %x = bf16[128,64]{1,0} parameter(0)
  %start = (s32[], bf16[128,64]{1,0}) tuple(%x, %x)
  ROOT %layers = (s32[], bf16[128,64]{1,0}) while(%start), condition=%condition, body=%body, metadata={op_name="jit(step)/jvp()/while"}, backend_config={"known_trip_count":{"n":"5"}}
}
"""
"""A loop of 5 iterations with a product in 8 bits, a kernel, and a loop inside it whose iterations the data decides."""

TPU = """HloModule jit_step, is_scheduled=true

%fused (x: bf16[8,16,32], y: bf16[8,32,64]) -> bf16[8,16,64] {
  %x = bf16[8,16,32]{2,1,0:T(8,128)(2,1)} parameter(0)
  %y = bf16[8,32,64]{2,1,0:T(8,128)(2,1)} parameter(1)
  ROOT %conv = bf16[8,16,64]{2,1,0:T(8,128)(2,1)} convolution(%x, %y), window={size=8 stride=7 pad=0_0 lhs_dilate=8}, dim_labels=0bf_0io->0bf
}

%body (carry: (u32[], bf16[8,16,32])) -> (u32[], bf16[8,16,32]) {
  %carry = (u32[]{:T(128)}, bf16[8,16,32]{2,1,0:T(8,128)(2,1)}) parameter(0)
  %count = u32[]{:T(128)} get-tuple-element(%carry), index=0
  %two = u32[]{:T(128)} constant(2)
  %added = u32[]{:T(128)} add(%count, %two)
  %kernel.1 = (bf16[8,16,32]{2,1,0:T(8,128)(2,1)}, f32[8]{0}) custom-call(%carry), custom_call_target="tpu_custom_call", frontend_attributes={kernel_metadata={
"xprof_metadata":"{}"
}}, metadata={op_name="jit(step)/transpose(jvp(experts))/pallas_call"}
  ROOT %result = (u32[]{:T(128)}, bf16[8,16,32]{2,1,0:T(8,128)(2,1)}) tuple(%added, %kernel.1)
}

%condition (carry: (u32[], bf16[8,16,32])) -> pred[] {
  %limit = u32[]{:T(128)} constant(7)
  %carry = (u32[]{:T(128)}, bf16[8,16,32]{2,1,0:T(8,128)(2,1)}) parameter(0)
  %count = u32[]{:T(128)} get-tuple-element(%carry), index=0
  ROOT %less = pred[]{:T(512)} compare(%count, %limit), direction=LT
}

ENTRY %main (x: bf16[8,16,32], y: bf16[8,32,64]) -> bf16[8,16,64] {
  %x = bf16[8,16,32]{2,1,0:T(8,128)(2,1)} parameter(0)
  %y = bf16[8,32,64]{2,1,0:T(8,128)(2,1)} parameter(1)
  %buffer = bf16[8]{0} custom-call(), custom_call_target="AllocateBuffer"
  %start = (u32[]{:T(128)}, bf16[8,16,32]{2,1,0:T(8,128)(2,1)}) tuple(%x, %x)
  %loop = (u32[]{:T(128)}, bf16[8,16,32]{2,1,0:T(8,128)(2,1)}) while(%start), condition=%condition, body=%body
  ROOT %out = bf16[8,16,64]{2,1,0:T(8,128)(2,1)} fusion(%x, %y), kind=kOutput, calls=%fused
}
"""
"""A product with a batch of 8, written as a convolution, and a loop whose counter grows by 2 up to 7, with a kernel in
it.
"""


def scheduled(*lines: str) -> str:
    """A program with these instructions. ``%w`` is an array of 64 MiB, ``%x`` one of 1 MiB; `add` adds up scalars."""
    begin = """HloModule jit_step, is_scheduled=true

%add (a: f32[], b: f32[]) -> f32[] {
  ROOT %sum = f32[] add(%a, %b)
}

ENTRY %main (w: bf16[4096,8192], x: bf16[64,8192]) -> bf16[64,8192] {
  %w = bf16[4096,8192]{1,0} parameter(0)
  %x = bf16[64,8192]{1,0} parameter(1)
"""
    return begin + "".join(f"  {line}\n" for line in lines) + "}\n"

"""The time of torch's attention on cases that come as JSON on standard input; answers one line: for each case,
milliseconds by function.

Functions: ``scaled_dot_product_attention`` with its causal flag or with a mask of booleans, and for documents also the
one for sequences of different lengths, where torch has it. Each has two times: forward, and forward and backward.
"""

from __future__ import annotations

import functools
import inspect
import json
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as functional

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def wait() -> None:
    if DEVICE == "cuda":
        torch.cuda.synchronize()


def milliseconds(work: Callable[[], Any]) -> float:
    for _ in range(2):
        work()
    wait()
    times = []
    until = time.perf_counter() + 0.5
    while not times or (time.perf_counter() < until and len(times) < 10):
        began = time.perf_counter()
        for _ in range(5):
            work()
        wait()
        times.append((time.perf_counter() - began) / 5)
    return statistics.median(times) * 1e3


def timed(call: Callable[..., Any], *inputs: Any) -> list[float] | str:
    try:
        weights = torch.randn_like(call(*inputs))

        def both() -> None:
            for one in inputs:
                one.grad = None
            call(*inputs).backward(weights)

        with torch.no_grad():
            forward = milliseconds(lambda: call(*inputs))
        return [forward, milliseconds(both)]
    except Exception as error:
        return str(error).splitlines()[0][:200]
    finally:
        if DEVICE == "cuda":
            torch.cuda.empty_cache()


def of_case(case: dict[str, Any]) -> dict[str, Any]:
    rows, length, features = case["rows"], case["length"], case["features"]
    heads, kv_heads = case["heads"], case["kv_heads"]

    def random(count: int, *, flat: bool) -> torch.Tensor:
        shape = (rows * length, count, features) if flat else (rows, count, length, features)
        return torch.randn(shape, device=DEVICE, dtype=torch.bfloat16, requires_grad=True)

    inputs = [random(count, flat=False) for count in (heads, kv_heads, kv_heads)]
    grouped = heads != kv_heads
    if case["mask"] == "causal":
        return {
            "torch, causal flag": timed(
                lambda q, k, v: functional.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=grouped),
                *inputs,
            )
        }
    number = torch.arange(length, device=DEVICE)
    mask = (number[:, None] >= number[None, :])[None]
    ids = torch.tensor(case["ids"], device=DEVICE)
    if "window" in case["mask"]:
        mask = mask & (number[:, None] - number[None, :] < case["window"])
    if "documents" in case["mask"]:
        mask = mask & (ids[:, :, None] == ids[:, None, :])
    mask = mask[:, None].expand(rows, 1, length, length)
    # The kernels for masks want as many heads of keys as of queries.
    whole = [x.detach().repeat_interleave(heads // x.shape[1], 1).requires_grad_() for x in inputs]
    masked = functools.partial(functional.scaled_dot_product_attention, attn_mask=mask)
    found = {"torch, mask": timed(masked, *whole)}
    del mask, masked, whole, inputs
    if case["mask"] == "causal + documents":
        found["torch, varlen"] = varlen(ids, [random(count, flat=True) for count in (heads, kv_heads, kv_heads)])
    return found


def varlen(ids: torch.Tensor, inputs: list[torch.Tensor]) -> list[float] | str:
    try:
        from torch.nn.attention.varlen import varlen_attn
    except ImportError:
        return "this torch has no attention for sequences of different lengths"
    length = ids.shape[1]
    flat = (ids + torch.arange(len(ids), device=ids.device)[:, None] * (length + 1)).flatten()
    changes = torch.nonzero(flat[1:] != flat[:-1]).flatten() + 1
    ends = torch.cat([changes.new_zeros(1), changes, changes.new_full((1,), flat.numel())]).to(torch.int32)
    longest = int((ends[1:] - ends[:-1]).max())
    # Versions of torch differ in how they name a causal mask, and the earlier ones have no grouped heads here.
    known = inspect.signature(varlen_attn).parameters
    options: dict[str, Any] = {"window_size": (-1, 0)} if "window_size" in known else {"is_causal": True}
    if inputs[0].shape[1] != inputs[1].shape[1]:
        if "enable_gqa" in known:
            options["enable_gqa"] = True
        else:
            inputs = [
                x.detach().repeat_interleave(inputs[0].shape[1] // x.shape[1], 1).requires_grad_() for x in inputs
            ]
    return timed(lambda q, k, v: varlen_attn(q, k, v, ends, ends, longest, longest, **options), *inputs)


def main() -> None:
    print(json.dumps([of_case(case) for case in json.load(sys.stdin)]))


if __name__ == "__main__":
    main()

"""Attention: the error of each implementation against ``reference`` in float32, and (``attention-speed``) its time
beside torch's.

Queries, keys and values are random; the errors are norms of differences, relative to the norm of the reference's values
or gradients. In bfloat16 the inputs are rounded first, so the reference computes with the same numbers. ``same bits``
says whether a second call with the same arrays returned the same values and gradients.
"""

from __future__ import annotations

import functools
import itertools
import json
import subprocess
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import haliax as hax
import jax
import jax.numpy as jnp
import numpy as np
from haliax import NamedArray

from halcyon.models.parts.attention import attention
from halcyon.models.parts.attention_choice import CannotServe, Choice, Implementation, Target, attending
from halcyon.models.parts.masks import Causal, Mask, Segments, Window
from halcyon.step.compilation import compiler_options
from tests.accelerator.measure import Options, brief, error_of, milliseconds
from tests.accelerator.rows import Row

NAMES: tuple[Implementation, ...] = ("reference", "blockwise", "tokamax", "splash")
"""The implementations that one device can compute."""
TORCH = Path(__file__).parents[1] / "torch_attention.py"


@dataclass(frozen=True)
class Case:
    """One call: sizes, mask and type."""

    rows: int
    length: int
    heads: int
    kv_heads: int
    features: int
    mask: str
    dtype: str
    document: int = 1000
    """Mean length of a document."""
    window: int = 1024
    soft_cap: float | None = None
    sinks: bool = False

    @property
    def facts(self) -> Row:
        """The columns that name the case."""
        extra = (["soft cap"] if self.soft_cap else []) + (["sinks"] if self.sinks else [])
        return {
            "mask": " ".join([self.mask, *(f"+ {name}" for name in extra)]),
            "heads": f"{self.heads} / {self.kv_heads} x {self.features}",
            "type": self.dtype,
        }

    def ids(self) -> np.ndarray:
        """The number of each position's document: int32 [row, position]."""
        noise = np.random.default_rng(7)
        return np.cumsum(noise.random((self.rows, self.length)) < 1 / self.document, 1).astype(np.int32)

    def arrays(self) -> tuple[jax.Array, ...]:
        """Query, key, value, weights of the results, and sinks, rounded to the type."""
        sizes = [
            (self.kv_heads, self.heads // self.kv_heads),
            (self.kv_heads,),
            (self.kv_heads,),
            (self.kv_heads, self.heads // self.kv_heads),
        ]
        keys = jax.random.split(jax.random.key(3), 5)
        found = [
            jax.random.normal(key, (self.rows, self.length, *size, self.features), jnp.float32).astype(self.dtype)
            for key, size in zip(keys, sizes, strict=False)
        ]
        return (*found, jax.random.normal(keys[4], (self.kv_heads, self.heads // self.kv_heads), jnp.float32))


def mask_of(case: Case, ids: NamedArray) -> Mask | None:
    """The mask, from the words of its name."""
    parts = {"causal": Causal(), "window": Window(case.window), "documents": Segments(ids)}
    return functools.reduce(lambda left, right: left & right, (parts[word] for word in case.mask.split(" + ")))


def program(
    case: Case, name: Implementation | None, *, gradients: bool, dtype: Any = None, chosen: list[Choice] | None = None
) -> Any:
    """A compiled call: from the arrays and the ids to the results, and the gradients by query, key, value and sinks.

    Raises:
        CannotServe: The implementation does not compute this case.
    """
    batch, position = hax.Axis("batch", case.rows), hax.Axis("position", case.length)
    keys, heads = position.alias("key_position"), hax.Axis("kv_heads", case.kv_heads)
    group, size = hax.Axis("q_heads_per_group", case.heads // case.kv_heads), hax.Axis("head_size", case.features)

    def call(arrays: tuple[jax.Array, ...], ids: jax.Array) -> tuple[jax.Array, jax.Array]:
        query, key, value, weights, sinks = arrays
        axes = (batch, position, heads, group, size)
        out = attention(
            NamedArray(query, axes),
            NamedArray(key, (batch, keys, heads, size)),
            NamedArray(value, (batch, keys, heads, size)),
            mask_of(case, NamedArray(ids, (batch, position))),
            soft_cap=case.soft_cap,
            sinks=NamedArray(sinks, (heads, group)) if case.sinks else None,
            implementation=name,
        ).rearrange(axes)
        return jnp.sum(out.array.astype(jnp.float32) * weights.astype(jnp.float32)), out.array

    def both(arrays: tuple[jax.Array, ...], ids: jax.Array) -> Any:
        (_, out), found = jax.value_and_grad(call, has_aux=True)(arrays, ids)
        return out, *found[:3], *(found[4:] if case.sinks else ())

    shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, dtype or x.dtype), jax.eval_shape(case.arrays))
    ids = jax.ShapeDtypeStruct((case.rows, case.length), jnp.int32)
    target = Target.of(jax.devices()[0])
    with attending("auto", target, (chosen if chosen is not None else []).append):
        lowered = jax.jit(both if gradients else lambda arrays, ids: call(arrays, ids)[1]).lower(shapes, ids)
    return functools.partial(lowered.compile, compiler_options=compiler_options())


def programs(cases: list[tuple[Case, Implementation]], **keywords: Any) -> list[Any]:
    """The programs of several calls, compiled side by side; a string with the reason in the place of one that cannot be
    compiled.
    """

    def compiled(one: Callable[[], Any] | str) -> Any:
        if isinstance(one, str):
            return one
        try:
            return one()
        except Exception as error:
            return f"fails to compile: {brief(error)}"

    traced: list[Callable[[], Any] | str] = []
    for case, name in cases:  # tracing is Python's, so it gains nothing from threads
        try:
            traced.append(program(case, name, **keywords))
        except CannotServe as error:
            traced.append(f"refused: {error}")
        except Exception as error:
            traced.append(f"fails to trace: {brief(error)}")
    with ThreadPoolExecutor(8) as threads:
        return list(threads.map(compiled, traced))


def rows(options: Options, case: tuple[str, ...] = ()) -> Iterator[Row]:
    """The rows of errors, or with ``speed`` those of times."""
    yield from _speed(options) if case == ("speed",) else _errors(options)


def _errors(options: Options) -> Iterator[Row]:
    length = options.pick(2048, 1152)
    sizes = {"rows": 2, "length": length, "document": options.pick(150, 100), "window": options.pick(300, 70)}
    heads = options.pick([(16, 16, 64), (32, 8, 64), (16, 4, 128), (8, 2, 256)], [(4, 2, 16)])
    masks = ["causal", "causal + documents", "causal + window", "causal + window + documents"]
    cases = [
        Case(heads=many, kv_heads=few, features=features, mask=mask, dtype=dtype, **sizes)
        for mask, (many, few, features), dtype in itertools.product(masks, heads, ("bfloat16", "float32"))
    ]
    many, few, features = heads[-1]
    cases += [
        Case(
            heads=many, kv_heads=few, features=features, mask=mask, dtype="bfloat16", soft_cap=cap, sinks=sinks, **sizes
        )
        for mask in masks[:2]
        for cap, sinks in ((20.0, False), (None, True))
    ]
    if options.dry:
        cases = cases[::3]
    for first in range(0, len(cases), 4):
        yield from _compared(cases[first : first + 4])


def _compared(cases: list[Case]) -> Iterator[Row]:
    named = [(case, name) for case in cases for name in NAMES if name != "reference" or case.dtype != "float32"]
    compiled = dict(zip(named, programs(named, gradients=True), strict=True))
    right = dict(
        zip(cases, programs([(case, "reference") for case in cases], gradients=True, dtype=jnp.float32), strict=True)
    )
    for case in cases:
        arrays, ids = case.arrays(), jnp.asarray(case.ids())
        wide = jax.tree.map(lambda x: x.astype(jnp.float32), arrays)
        reference = right[case]
        if isinstance(reference, str):
            yield {**case.facts, "error": f"reference {reference}"}
            continue
        expected = reference(wide, ids)
        for name in NAMES:
            run = compiled.get((case, name))
            if run is None or (isinstance(run, str) and run.startswith("refused")):
                continue
            if isinstance(run, str):
                yield {**case.facts, "implementation": name, "error": run}
                continue
            try:
                found, again = run(arrays, ids), run(arrays, ids)
                errors = [error_of(one, other) for one, other in zip(found, expected, strict=True)]
                same = all(bool(jnp.array_equal(one, other)) for one, other in zip(found, again, strict=True))
            except Exception as error:
                yield {**case.facts, "implementation": name, "error": brief(error)}
                continue
            names = ("values", "by query", "by key", "by value", "by sinks")
            yield {
                **case.facts,
                "implementation": name,
                "error of values": errors[0],
                "largest error of a gradient": max(errors[1:]),
                "of": names[1 + int(np.argmax(errors[1:]))],
                "same bits": same,
            }


def _speed(options: Options) -> Iterator[Row]:
    length = options.pick(8192, 1152)
    tokens = options.pick(32_768, 2 * length)
    cases = [
        Case(tokens // length, length, heads, 8 if heads > 8 else heads, features, mask, "bfloat16")
        for heads, features in options.pick([(32, 64), (32, 128)], [(4, 16)])
        for mask in ("causal + documents", "causal", "causal + window")
    ]
    torch = _torch(options, cases)
    for number, case in enumerate(cases):
        chosen: list[Choice] = []
        names = NAMES[1:]
        # The forward pass of `None` tells what `auto` takes; its own time is that of the implementation.
        program(case, None, gradients=False, chosen=chosen)
        compiled = {
            (name, gradients): found
            for gradients in (True, False)
            for name, found in zip(names, programs([(case, name) for name in names], gradients=gradients), strict=True)
        }
        arrays, ids = case.arrays(), jnp.asarray(case.ids())
        seen = visible_pairs(case)
        for name in names:
            forward, both = compiled[name, False], compiled[name, True]
            if isinstance(both, str):
                if not both.startswith("refused"):
                    yield {**case.facts, "implementation": name, "error": both}
                continue
            try:
                times = [
                    milliseconds(lambda run=run, arrays=arrays, ids=ids: run(arrays, ids), most=10)
                    for run in (forward, both)
                ]
            except Exception as error:
                yield {**case.facts, "implementation": name, "error": brief(error)}
                continue
            yield _speed_row(case, f"{name}{' (auto)' if chosen[0].implementation == name else ''}", *times, seen)
        for name, times in torch[number].items():
            if isinstance(times, str):
                yield {**case.facts, "implementation": name, "left out": times}
            else:
                yield _speed_row(case, name, *times, seen)


def _speed_row(case: Case, name: str, forward: float, both: float, pairs: int) -> Row:
    """Operations are those of the pairs that the mask shows: 4 a feature forward, and 2.5 times as many backward (Dao
    2023).
    """
    operations = 4 * pairs * case.heads * case.features
    return {
        **{name: value for name, value in case.facts.items() if name != "type"},
        "implementation": name,
        "forward ms": forward,
        "forward and backward ms": both,
        "TFLOP/s": 3.5 * operations / both / 1e9,
    }


def visible_pairs(case: Case) -> int:
    """Pairs of a query and a key that the mask shows, over all rows."""
    total = 0
    for ids in case.ids():
        number = np.arange(case.length)
        first = np.zeros(case.length, int)
        if "documents" in case.mask:
            first = np.maximum(first, np.searchsorted(ids, ids))
        if "window" in case.mask:
            first = np.maximum(first, number - case.window + 1)
        total += int(np.sum(number + 1 - first))
    return total


def _torch(options: Options, cases: list[Case]) -> list[dict[str, Any]]:
    """Times of torch's functions, forward, and forward and backward, by name; empty without torch."""
    nothing: list[dict[str, Any]] = [{} for _ in cases]
    if options.torch is None:
        return nothing
    asked = [
        {
            "rows": case.rows, "length": case.length, "heads": case.heads, "kv_heads": case.kv_heads,
            "features": case.features,
            "mask": case.mask, "window": case.window, "ids": case.ids().tolist(),
        }
        for case in cases
    ]  # fmt: skip
    try:
        said = subprocess.run(
            [options.torch, TORCH],
            input=json.dumps(asked),
            capture_output=True,
            text=True,
            check=True,
            timeout=options.seconds / 2,
        )
        return json.loads(said.stdout.splitlines()[-1])
    except subprocess.CalledProcessError as error:
        return [{"torch": f"torch ended: {error.stderr[-200:]}"}, *nothing[1:]]
    except subprocess.TimeoutExpired:
        return [{"torch": "torch took too long"}, *nothing[1:]]

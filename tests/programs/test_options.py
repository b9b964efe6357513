"""The compilers accept every option of the table, and what devices send is covered better with them.

`make programs` installs the compilers. A process can ask for one generation.
"""

from __future__ import annotations

import json
import subprocess
import sys

import jax
import pytest

from halcyon_api.hardware import TABLE
from halcyon_api.hardware.compiler import COMPILER_OPTIONS, generation_of, options_of

HARDWARE = {
    "v4": "2x2x1", "v5e": "2x2", "v5p": "2x2x1", "v6e": "2x2", "v7x": "2x2x1", "a100": "1x2", "l4": "1x2",
    "h200": "1x8", "b200": "1x8",
}  # fmt: skip
"""Topologies of several devices."""

PROGRAM = """
import json, sys

import jax
import jax.numpy as jnp

from halcyon.commands.programs.devices import devices_of
from halcyon_api.spec.accelerator import AcceleratorSpec

accelerator, topology, *sets = sys.argv[1:]
devices = devices_of(AcceleratorSpec(type=accelerator, topology=topology), 1)
mesh = jax.sharding.Mesh(devices, ("x",))
x = jax.ShapeDtypeStruct((8, 128), jnp.float32, sharding=jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("x")))
lowered = jax.jit(jnp.sum).lower(x)
for options in map(json.loads, sets):
    try:
        lowered.compile(compiler_options=options)
        print("accepted")
    except jax.errors.JaxRuntimeError as error:
        print(f"rejected: {error}".splitlines()[0])
device = devices[0]
print(json.dumps([device.device_kind, str(getattr(device, "compute_capability", ""))]))
"""

STEP = """
from halcyon.step.hlo.module import parse
from halcyon.step.hlo.schedule import overlap
from halcyon.commands.programs.devices import described_mesh
from halcyon.commands.programs.devices import described
from halcyon.step.speeds import rates_of
from halcyon.step.program import build_program
from halcyon_api.reading import parse_run
from tests.api.documents import document

llama = {"numHiddenLayers": 8, "hiddenSize": 2048, "intermediateSize": 8192, "numAttentionHeads": 16, "numKeyValueHeads": 4}
trainer = {"steps": 1, "batchSize": 8, "sequenceLength": 4096, "remat": "attention", "precision": {"compute": "bfloat16"}}
run = document(spec__accelerator={"type": "h200", "topology": "1x8"}, spec__model={"family": "llama"} | llama, spec__trainer=trainer)
spec = parse_run(run).spec
mesh = described_mesh(spec)
with described(mesh.devices.flat[0]):
    program = build_program(spec, 8192, mesh)
    lowered = program.lower_step(8, 4096)
    options = program.compiler_options()
    none = {name: value for name, value in options.items() if "pipeline" not in name}
    for compiled in (program.compile(lowered), lowered.compile(compiler_options=none)):
        print(overlap(parse(compiled.as_text()), rates_of(spec.accelerator, 1), mesh.size).covered)
"""


def last_lines(count: int, program: str, *arguments: str) -> list[str]:
    """The last lines that a Python program prints."""
    ended = subprocess.run([sys.executable, "-c", program, *arguments], capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr[-2000:]
    return ended.stdout.splitlines()[-count:]


@pytest.mark.programs
@pytest.mark.variant
@pytest.mark.parametrize("name", HARDWARE)
def test_the_compiler_of_a_generation_accepts_its_options(name: str) -> None:
    row = TABLE[name]
    generation = generation_of(row.device_kinds[0], ".".join(map(str, row.compute_capability or ())))
    assert generation is not None
    options = options_of(generation, devices=2, jax=jax.__version_info__)
    sets = [json.dumps(each) for each in (options, {"xla_no_such_option": True})]
    accepted, unknown, described = last_lines(3, PROGRAM, name, HARDWARE[name], *sets)
    assert accepted == "accepted"
    assert "No such compile option" in unknown
    assert generation_of(*json.loads(described)) == generation, "a described device has the options of its generation"


@pytest.mark.programs
@pytest.mark.variant
def test_products_cover_more_of_what_gpus_send_with_the_options() -> None:
    covered, without = map(float, last_lines(2, STEP))
    assert covered > without + 0.1


def test_every_generation_of_the_table_is_asked() -> None:
    rows = [TABLE[name] for name in HARDWARE]
    asked = {generation_of(row.device_kinds[0], ".".join(map(str, row.compute_capability or ()))) for row in rows}
    assert {name for row in COMPILER_OPTIONS for name in row.generations} <= asked

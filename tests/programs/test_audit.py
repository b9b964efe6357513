"""The audit of a run is a program of the accelerator too: with the kernel of the step, in about its memory, and without a
sum over slices.

`make programs` installs the compilers. A process can ask for one generation.
"""

from __future__ import annotations

import json

import pytest

from tests.programs.test_options import last_lines

pytestmark = [pytest.mark.programs, pytest.mark.variant]

AUDIT = """
import json, sys

from halcyon.commands.programs.devices import described, described_mesh
from halcyon.step.audit import Audit
from halcyon.step.hlo.collectives import collectives
from halcyon.step.program import build_program
from halcyon_api.reading import parse_run
from tests.api.documents import document

accelerator, topology, slices = sys.argv[1:]
llama = {"numHiddenLayers": 4, "hiddenSize": 512, "intermediateSize": 2048, "numAttentionHeads": 4, "numKeyValueHeads": 4}
trainer = {"steps": 1, "batchSize": 32, "sequenceLength": 1024, "remat": "full", "precision": {"compute": "bfloat16"}}
run = document(
    spec__accelerator={"type": accelerator, "topology": topology, "slices": int(slices)},
    spec__model={"family": "llama"} | llama,
    spec__trainer=trainer,
)
spec = parse_run(run).spec
mesh = described_mesh(spec)
with described(mesh.devices.flat[0]):
    program = build_program(spec, 8192, mesh)
    step = program.compile(program.lower_step(32, 1024))
    kernels = set(program.attention_choices)
    audit = program.compile(Audit(program).lower(32, 1024))
within = mesh.size // int(slices)
print(json.dumps({
    "bytes": [one.memory_analysis().temp_size_in_bytes for one in (step, audit)],
    "kernels": [sorted(kernels), sorted(program.attention_choices)],
    "across": [
        one.kind for one in collectives(audit.as_text())
        if one.dtype != "u32" and any(member // within != group[0] // within for group in one.groups for member in group)
    ],
}))
"""


@pytest.mark.parametrize(("accelerator", "topology", "slices"), [("v5e", "2x2", 2), ("h200", "1x8", 2)])
def test_an_audit_is_compiled_for_an_accelerator(accelerator: str, topology: str, slices: int) -> None:
    found = json.loads(last_lines(1, AUDIT, accelerator, topology, str(slices))[0])
    step, audit = found["bytes"]
    assert audit <= 1.1 * step
    assert found["kernels"][0] == found["kernels"][1] != ["reference"]
    assert found["across"] == []

"""The data that a step sends between devices: compiles the real step, and lists its collectives by loop depth, with full-array bytes.

Without options it compiles for 8 virtual CPU devices. With a TPU topology it compiles ahead of time, without the hardware; this needs
libtpu (the extra `tpu`) and takes minutes.

    python tests/bench/step_traffic.py [--tpu v5e:2x4 --type v5e --topology 2x4] [--mesh 1,1,8,1] [--microbatches 4] [--vocabulary 128256]
"""

from __future__ import annotations

import argparse
import os
from collections import Counter

import jax
import numpy as np
from jax.sharding import AxisType, Mesh

import halcyon.training.program
from halcyon.hlo.collectives import collectives
from halcyon.parallel.mesh import MESH_AXES
from halcyon_api.training_run import TrainingRunSpec


def devices_of(topology: str | None) -> np.ndarray:
    """The devices of a TPU topology, or 8 virtual CPU devices."""
    jax.config.update("jax_platforms", "cpu")
    if topology is None:
        jax.config.update("jax_num_cpu_devices", 8)
        return np.array(jax.devices())
    import libtpu
    from jax.experimental import topologies

    os.environ |= {"TPU_SKIP_MDS_QUERY": "1", "TPU_LIBRARY_PATH": libtpu.get_library_path()}
    devices = np.array(topologies.get_topology_desc(platform="tpu", topology_name=topology).devices)
    # The programs check for their target platform, which is not the platform of this process.
    jax.default_backend = lambda: "tpu"
    return devices


def spec_of(options: argparse.Namespace) -> TrainingRunSpec:
    """A run of a Llama with two layers: the loop over layers shows the traffic of each layer, for any number of layers."""
    hidden = options.hidden
    llama = {"layers": 2, "hiddenSize": hidden, "intermediateSize": 2 * hidden, "heads": hidden // 128, "tieEmbeddings": options.tied}
    trainer = {"steps": 1, "batchSize": options.batch, "sequenceLength": options.length, "microbatches": options.microbatches}
    return TrainingRunSpec.model_validate(
        {
            "accelerator": {"type": options.type, "topology": options.topology},
            "model": {"llama": llama},
            "data": {"sources": [{"name": "python", "stdlib": {}}]},
            "trainer": trainer | {"precision": {"compute": "bfloat16"}},
            "checkpoint": {"root": "file:///nowhere"},
        }
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tpu", help="topology to compile for, such as v5e:2x4")
    parser.add_argument("--type", default="cpu", help="accelerator type; its memory decides which arrays are gathered")
    parser.add_argument("--topology", default="1x8", help="its topology")
    parser.add_argument("--mesh", default="1,1,8,1,1,1", help=f"sizes of {', '.join(MESH_AXES)}")
    parser.add_argument("--microbatches", type=int, default=1)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--vocabulary", type=int, default=4096)
    parser.add_argument("--length", type=int, default=512)
    parser.add_argument("--hidden", type=int, default=256)
    parser.add_argument("--tied", action="store_true")
    parser.add_argument("--least", type=float, default=1.0, help="smallest collective to list, in megabytes")
    options = parser.parse_args()
    sizes = tuple(map(int, options.mesh.split(",")))
    mesh = Mesh(devices_of(options.tpu).reshape(sizes), MESH_AXES, axis_types=(AxisType.Auto,) * len(MESH_AXES))
    program = halcyon.training.program.build_program(spec_of(options), options.vocabulary, mesh)
    compiled = program.compile_step(options.batch, options.length)
    memory = compiled.memory_analysis()
    print(f"state {memory.argument_size_in_bytes / 1e6:.0f} MB and scratch {memory.temp_size_in_bytes / 1e6:.0f} MB a device")
    print(f"{'loops':>5}  {'count':>5}  {'collective':<20} {'array':<28} MB")
    found = Counter((one.depth, one.kind, f"{one.dtype}{list(one.shape)}", one.size_bytes / 1e6) for one in collectives(compiled.as_text()))
    for (depth, kind, array, megabytes), count in sorted(found.items(), key=lambda row: (row[0][0], -row[0][3])):
        if megabytes >= options.least:
            print(f"{depth:>5}  {count:>5}  {kind:<20} {array:<28} {megabytes:.1f}")


if __name__ == "__main__":
    main()

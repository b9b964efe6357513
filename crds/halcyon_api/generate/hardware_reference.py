"""Renders ``docs/hardware.md`` from the hardware table."""

from collections.abc import Iterable

from halcyon_api.hardware import PRICES, PROVISIONING_AS_OF, PROVISIONING_LABELS, PROVISIONING_SOURCE, TABLE
from halcyon_api.hardware.compiler import COMPILER_OPTIONS, FIRST_JAX, CompilerOption, title
from halcyon_api.hardware.kinds import Accelerator, Fabric
from halcyon_api.hardware.machines import CPU_POD_CPUS, CPU_POD_GIB, DEVICE_CPUS, DEVICE_GIB, left_of_host_gib
from halcyon_api.spec.fabric import KnownFabric, built_in_fabrics

_HEADER = """<!-- Generated from crds/halcyon_api/hardware by `make generate`. Do not edit. -->
# Hardware

`spec.accelerator` names one row of a table. The row defines everything else: node labels, tolerations, resources, hosts and processes, the
network, the environment of libtpu and NCCL. An unknown name is rejected with a list of the known names, and `halcyon validate` suggests the
most similar one.

**Tried on hardware so far:** {tried}.
All else is written from documentation and from other projects' manifests, listed below with their date. The objects of each row are
reviewed and kept as `tests/operator/golden/*.yaml`, and the real API server accepts the documents, but no TPU and no node with a GPU has
run them yet. Expect to fix a detail, and please report it. [Performance](performance.md#on-a-gpu) has what was measured on a GPU.
"""

_TPU_TEXT = """
A slice is a node pool. The pods select its label and topology, and JobSet's exclusive placement keeps the hosts of a slice in one node
pool and other slices of the run out of it. Not in the table: hosts with eight chips (`ct5lp-hightpu-8t`, `ct6e-standard-8t`), sub-slices
and super-slices. Slices of v7x with several hosts need a node pool with a workload placement policy. Pods declare port 8431, where libtpu
serves metrics of the chips by gRPC. GKE's agent on the node reads them; Prometheus cannot, so no PodMonitor reads this port.

Most uncertain until tried: that the pods are not privileged, unlike those in many examples; and that on v7x one process drives all four
chips of a host (eight JAX devices), where xpk starts two containers.

Several slices (`slices`) are joined over the data-centre network. GKE joins only slices of several hosts. Each pod gets
`MEGASCALE_NUM_SLICES`, `MEGASCALE_SLICE_ID`, `MEGASCALE_COORDINATOR_ADDRESS`, `MEGASCALE_PORT`, `TPU_WORKER_ID` and
`TPU_WORKER_HOSTNAMES` (v7x: `TPU_PROCESS_ADDRESSES` and `TPU_PROCESS_PORT`). The operator sets them, not a webhook, so that a replaced pod
cannot get the values of an older process group.

| port | of | for |
|---|---|---|
| 8476 | process 0 | JAX's coordination service |
| 8080 | first host of slice 0 | transfers between TPU slices |
| 8471 | every TPU host | the TPU runtimes of a slice |
| 9400 (`telemetry.port`) | every process | metrics, progress, health |
"""

_GPU_TEXT = """
A topology is `HOSTSxGPUS`. The pods select a label and request the GPUs of a host; the machine types follow from both. One process per
host drives all its GPUs. All pods get a memory-backed `/dev/shm`; those on GKE also get `LD_LIBRARY_PATH=/usr/local/nvidia/lib64`. The
trainer's image must be built with `--build-arg ACCELERATOR=cuda` (for gb200 and gb300, for arm64); another image is detected from the
platform that JAX sees, before the run begins. The image has CUDA 13, which needs the driver 580 or newer on the nodes. On GKE, a node pool
with `gpu-driver-version=latest` has the newest one. Hosts of h100 with fewer than eight GPUs are sold as spot or flex-start only.

b300 is for clusters other than GKE, which has no such machine; its nodes are found by the label of NVIDIA's GPU feature discovery.
Types of the table are on other clusters with [`accelerator.fabric`](#networks-outside-gke). For GPUs that are not in the table, use
`type: nvidia`, and `scheduling.nodeSelector` and `scheduling.tolerations` to choose the nodes; their model FLOPs utilisation (MFU) is not
known.

```yaml
accelerator: {type: nvidia, topology: 2x8}
scheduling:
  nodeSelector: {nvidia.com/gpu.product: NVIDIA-A100-SXM4-80GB}
  tolerations: [{key: dedicated, value: training, effect: NoSchedule}]
```

A slice of gb200 or gb300 is in one node pool (one NVLink domain of 18 hosts). For NVLink between hosts, create a `ComputeDomain` in the
namespace and set `accelerator.computeDomain` to its ResourceClaimTemplate. gb300 is bare metal.

### AMD GPUs

mi300x and mi355x are in no cluster of Google's: their nodes have the resource `amd.com/gpu` and the labels of AMD's device plugin and node
labeller, or a [fabric](#networks-outside-gke). Nothing of Halcyon was ever tried on them. What is known, and what is not:

- JAX for them is the extra `rocm` of the package: `jax-rocm7-plugin` 0.12 for ROCm 7.14, on x86-64. It needs the libraries of ROCm (HIP,
  RCCL, hipBLASLt, MIOpen), which are no Python packages. Build the image with `--build-arg ACCELERATOR=rocm` and, as `BASE_IMAGE`, an image
  of Debian or Ubuntu with ROCm 7.14 and Python 3.12 or later. JAX's own extra `rocm7-local` asks for a plugin that is not published for the
  locked JAX; JAX does not compare the versions.
- The pods must open `/dev/kfd` and `/dev/dri`. If these belong to the group `render` on your nodes, let the pods run as root
  (`trainerPods.security`, [Pods of runs](guides/cluster.md#pods-of-runs)).
- Attention and products of experts take XLA's own operations: the kernels are for NVIDIA GPUs. Narrow products are off, although the data
  sheets name float8 (2615 TFLOP/s on MI300X in another format than NVIDIA's, 5033 on MI355X).
- No program was compiled for them: without ROCm's libraries the plugin cannot be loaded, so `halcyon plan` knows their memory and ideal
  speeds from the data sheets, and neither the memory of a compiled step nor its time.
"""

_COMPILER_TEXT = """
## Options of the compiler

The trainer passes these options of XLA with every program that computes with the model, in a cluster and on your own machine. An option
that `XLA_FLAGS` or `LIBTPU_INIT_ARGS` names, in your shell or in [`spec.env`](guides/cluster.md#variables), is left to you; the other options
stay. The locked compilers, JAX 0.12 with libtpu 0.0.50, accept all of them.

The reasons name the [covered share](design/programs.md#covered-collectives) of compiled programs: Llamas of the widths of 8B and 70B, with
16 layers, on 8 devices that share the parameters by `fsdp`, with 8,192 tokens on each; on TPUs 8B with 4 layers and 2,048 tokens. No option
was measured on its hardware. `halcyon plan --details` prints the share of your run, with the options that your environment has.

"""

LEFT_OUT_TEXT = """
Left out, although other projects set them:

| option | hardware | reason |
| --- | --- | --- |
| `xla_gpu_enable_latency_hiding_scheduler` | GPUs | XLA does it by default: the program is the same. With `false`, nothing is covered |
| `xla_gpu_enable_while_loop_double_buffering` | GPUs | 85 % covered with it and without it, and a longer program |
| `xla_gpu_all_gather_combine_threshold_bytes`, `xla_gpu_reduce_scatter_combine_threshold_bytes`, `xla_gpu_all_reduce_combine_threshold_bytes` | GPUs | with 512 MB a block is sent as one array, which no product of the block can cover: 4 % instead of 51 % (8B, 4 layers) |
| `xla_gpu_experimental_parallel_collective_overlap_limit` | GPUs | with 4, 43 % covered instead of 51 % (8B, 4 layers) |
| `xla_gpu_enable_analytical_sol_latency_estimator`, `xla_gpu_experimental_enable_heuristic_collective_combining` | GPUs | `true` for the first one and `false` for the second one give the same program |
| `xla_gpu_threshold_for_windowed_einsum_mib`, `xla_gpu_multi_streamed_windowed_einsum` | GPUs | products in steps, with sends between them: XLA of JAX 0.12 fails to compile a step with them |
| `xla_gpu_enable_command_buffer` | GPUs | XLA records fusions, products of libraries and custom calls as CUDA graphs by default, kernels of Mosaic GPU too. The text of a program does not show it, so only a GPU can tell what more would gain |
| `xla_tpu_enable_async_collective_fusion`, `xla_tpu_enable_async_collective_fusion_fuse_all_gather`, `xla_tpu_enable_async_collective_fusion_multiple_steps` | TPUs | for v5e, libtpu does it by default: the program is the same. For v5p and v6e, libtpu 0.0.50 refuses to compile with them, because results could be wrong |
| `xla_enable_async_all_gather`, `xla_tpu_overlap_compute_collective_tc` | TPUs | the program is the same (v5e, v5p) |
| `xla_tpu_enable_ici_ag_pipelining` | TPUs | 48 % covered instead of 51 % (v5p) |
| `xla_jf_spmd_threshold_for_windowed_einsum_mib` | TPUs | divides products into steps, with sends between them, by default. With a threshold that forbids it nothing is covered (v5p) |
| `xla_tpu_enable_sparse_core_collective_offload_all_gather`, `xla_tpu_enable_sparse_core_collective_offload_reduce_scatter` | TPUs | 41 % covered instead of 20 % (v6e), 57 % instead of 51 % (v5p). MaxText sets them together with `xla_sc_disjoint_spmem` and a configuration of the chip that libtpu 0.0.50 does not know, so they have to be tried on a TPU first |
"""

_POD_MEMORY_TEXT = f"""
## Narrow products

The column "narrow products" has the values of `trainer.precision.products` that a type has, because it multiplies matrices faster in them
than in bfloat16. For `nvidia`, the trainer asks the devices: float8 needs compute capability 8.9, int8 needs 8.0, and mxfp8 and nvfp4 need
10. [Numbers](design/numbers.md#narrow-products) says which products are narrow.

## Memory and CPUs of a pod

A trainer pod requests memory, and the request is also its limit: a memory leak ends only the process that leaks. If a run does not set
`accelerator.hostResources.memory`, the chart's value `podMemory` for the accelerator type is used (`none`: no memory), else the memory of
the machine without the needs of the node: 97 % of its memory, less the memory that GKE reserves, less 4 GiB for pods that run on every
node. A host of type `cpu` gets {CPU_POD_GIB} GiB, and a host whose machine is not known {DEVICE_GIB} GiB per device. The memory that
devices share (/dev/shm) may use a quarter of that, `/tmp` 32 GiB and the cache 64 GiB; a pod that writes more is evicted.

If a run does not set `accelerator.hostResources.cpu`, a pod requests half of the CPUs of its machine: more than the pods that run on every
node, which keep their place beside it. Without a limit, it may use all that are idle. A host of type `cpu` requests {CPU_POD_CPUS}, because
many of them share a small node; set more where other pods compute beside it. A host whose machine is not known requests {DEVICE_CPUS} per
device, and a sidecar of the fast network 1.

| machine | memory of the machine | memory of the pod | CPUs of the machine | CPUs that the pod requests |
|---|---|---|---|---|
"""

_FABRIC_TEXT = """
## The fast network of GPUs

By default, GPUs of several hosts communicate over the pod's ordinary network (`network: standard`), under the restricted Pod Security
Standard. `network: gpuDirect` uses the fabric of the machine, which needs more than that standard allows. Two parties must allow it: the
run, and the owner of the operator (`gpuDirect.allowed` in the chart; else the run is `Stalled` with that reason); and the namespace must
admit such pods. The cluster needs multi-networking with networks of the names below, Google's NCCL plugin installer, and for TCPX and TCPXO
its device injector. No container is privileged, and the trainer's container has no additional rights. If the cluster has no device
injector, the owner can make the containers of a type privileged (`trainerPods.security`, [Pods of runs](guides/cluster.md#pods-of-runs)). The versions of
the sidecar and of the plugin that Google's installer puts on the nodes must match: the last column is the plugin version that the sidecar
was released with. Hosts of h100 with fewer than eight GPUs have no such network. gb300 gets its network cards by a separate claim (DRANET),
which runs cannot name yet.

Most uncertain until tried: whether the trainer, which is not root, can open the sidecar's sockets and `/dev/aperture_devices`; whether it
may lock as much memory as RDMA needs; and whether Google's NCCL plugins work with the NCCL of JAX.

| type | fabric | interfaces (in addition to `eth0` in `default`) | directories of the node | sidecar, as root | NCCL plugin on the nodes |
|---|---|---|---|---|---|
"""

_ELSEWHERE_TEXT = """
## Networks outside GKE

In another cluster, `accelerator.fabric` names the network of the GPUs: a row of this table, or one that the operator's owner describes in
`trainerPods.fabrics` of the chart ([GPUs outside GKE](guides/gpus.md#gpus-outside-gke)). Its labels, resources, variables and taints take
the place of GKE's; `halcyon train`, `halcyon slurm` and `halcyon launch` ignore them. No fabric gives rights to pods: if one needs some, the
run is rejected until the owner gives them (`trainerPods.security`, by the fabric's name). The memory that devices share (/dev/shm) may use
32 GiB on a host with eight GPUs. None of these rows was ever tried.

The trainer's image must have the library of the network, which Halcyon's has not: libibverbs for InfiniBand and RoCE, libfabric and
aws-ofi-nccl for EFA. Build it with `--build-arg PACKAGES="ibverbs-providers librdmacm1"`, or from an image with AWS's EFA installer
(`--build-arg BASE_IMAGE=…`, with Python 3.12 or later). NCCL says in its log (`NCCL_DEBUG=INFO` in `spec.env`) which network it uses.

"""

_PROVISIONING_TEXT = """
## How capacity is bought

On GKE, `provisioning` sets how capacity is bought: each kind selects nodes by a label and tolerates a taint of the same name. On other
clusters, `scheduling.nodeSelector` chooses the nodes.

| `provisioning` | label and taint | types |
|---|---|---|
"""

_PROVISIONING_NOTES = """
Pods of spot machines have 15 seconds from the preemption notice to their end, whatever `recovery.gracePeriodSeconds` says. Flex-start nodes
live at most seven days. Without queued provisioning, flex-start TPUs are slices of one host; a run that requests more is rejected, because
its pods would wait forever. `queued` requests all nodes at once by a ProvisioningRequest, which Kueue creates for a run in a
[queue](guides/queues.md). A reservation that another project shares also needs `reservationProject`, which becomes the label
`cloud.google.com/reservation-project`.

Most uncertain until tried: that nodes of queued provisioning have the label `cloud.google.com/gke-queued` in addition to the taint. GKE's
guide mentions only the taint and lets pods select `cloud.google.com/gke-flex-start`; xpk and the Cluster Toolkit's TPU examples select
`gke-queued`, as Halcyon does. If a node pool differs, use `onDemand`, and choose its nodes by `scheduling.nodeSelector` and
`scheduling.tolerations`.
"""

_MESH_TEXT = """
## The suggested mesh

Without `spec.mesh`, a run gets this mesh. With P parameters of the model, B of one block, D devices of a slice, M bytes of memory of a
device, w bytes of a stored parameter and c of one in a matrix product:

- `tensor` is the smallest power of two t that fits in a host, divides the key-value heads (GPT-2: heads), the width of the MLP and 64, and
  for which

      P * 4w / D  +  B * (w + c) / t  <=  3/4 M

  The first term is a device's share of parameters, gradients and the two moments of AdamW, the second is one block gathered for
  computation and its gradients, and a quarter of the memory is for activations. If no t fits, `tensor` is the largest t. It is 1 if the
  first term alone is too large (a run whose parameters and moments cannot fit is rejected), or if M is not known (`cpu`, `nvidia`).
- `fsdp` is the greatest common divisor of D / t and the width of the model, which it splits.
- `data` is D divided by the other two.
- `expert` is 1. A run with experts splits them only if its document sets `mesh.ici.expert` ([experts](design/experts.md)).

So a model that is small for its devices is sharded over all of them. A tokenizer file counts as 131,072 tokens. The mesh is recorded in
`status.topology.mesh` with the first attempt, and kept as long as the slice has the same number of devices, whatever a later version
suggests; a `mesh` in the document takes precedence.
"""


def render() -> str:
    """The text of the page."""
    tried = ", ".join(f"`{row.name}` ({row.tried})" for row in TABLE.values() if row.tried)
    rows = TABLE.values()
    parts = [
        _HEADER.format(tried=tried),
        "## Any node\n\n`cpu` needs no special hardware: a topology is `HOSTSxDEVICES`, hosts with virtual JAX "
        "devices. Choose the nodes,\n"
        "if necessary, by `scheduling.nodeSelector`.\n",
        "## TPU slices on GKE\n",
        _table(
            "type | `gke-tpu-accelerator` | machine | JAX devices a chip | memory a device | peak a device | "
            "narrow products | list price | topologies | tried",
            (_tpu(row) for row in rows if row.family == "tpu"),
        ),
        _TPU_TEXT.strip() + "\n",
        "## GPUs\n",
        _table(
            "type | `gke-accelerator` | machine | GPUs a host | hosts | memory a device | peak a device | "
            "narrow products | list price | tried",
            (_gpu(row) for row in rows if row.family == "gpu"),
        ),
        _GPU_TEXT.strip() + "\n",
        _COMPILER_TEXT.lstrip()
        + _table("option | value | hardware | programs | reason | source", (_option(row) for row in COMPILER_OPTIONS)),
        LEFT_OUT_TEXT.lstrip(),
        (_POD_MEMORY_TEXT + "\n".join(_host_memory())).strip() + "\n",
        (_FABRIC_TEXT + "\n".join(_fabric(row.name, row.fabric) for row in rows if row.fabric is not None)).strip()
        + "\n",
        _ELSEWHERE_TEXT.strip() + "\n",
        _table(
            "fabric | machine | types | Gbit/s of a host | label of the nodes | resources of a pod | variables | annotations | needs",
            (_elsewhere(name, known) for name, known in built_in_fabrics().items()),
        ),
        (_PROVISIONING_TEXT + "\n".join(_provisioning())).strip() + "\n",
        _PROVISIONING_NOTES.strip() + "\n",
        _MESH_TEXT.strip() + "\n",
        "## Sources\n",
        _table("types | from | read", _sources()),
    ]
    return "\n".join(parts).rstrip() + "\n"


def _table(head: str, rows: Iterable[tuple[str, ...]]) -> str:
    names = head.split(" | ")
    return "".join(f"| {' | '.join(line)} |\n" for line in (names, ["---"] * len(names), *rows))


def _quoted(names: Iterable[str]) -> str:
    return ", ".join(f"`{name}`" for name in names)


def _tpu(row: Accelerator) -> tuple[str, ...]:
    cubes = (
        f"; AxBxC in multiples of 4{', rising' if row.rising_sides else ''}, up to {row.max_cubes} cubes"
        if row.max_cubes
        else ""
    )
    label = next(iter(row.node_labels.values()))
    hosts = {shape.chips_per_host for name in row.topologies if (shape := row.shape(name)) is not None}
    machine = " or ".join(f"`{row.machine_of(chips)}`" for chips in sorted(hosts))
    return (
        f"`{row.name}`",
        f"`{label}`",
        machine,
        str(row.devices_per_chip),
        *_powers(row),
        ", ".join(row.topologies) + cubes,
        _tried(row),
    )


def _gpu(row: Accelerator) -> tuple[str, ...]:
    label = f"`{next(iter(row.node_labels.values()))}`" if row.node_labels else "any node"
    counts = ", ".join(map(str, row.devices_per_host)) or f"1 to {row.max_devices_per_host}"
    machines = _quoted(name for count in row.devices_per_host if (name := row.machine_of(count)))
    return (f"`{row.name}`", label, machines or "any", counts, f"1 to {row.max_hosts}", *_powers(row), _tried(row))


def _option(row: CompilerOption) -> tuple[str, ...]:
    hardware = ", ".join(title(name) for name in row.generations)
    since = "" if row.since == FIRST_JAX else f", from JAX {row.since[0]}.{row.since[1]}"
    programs = f"{'of several devices' if row.several_devices else 'all'}{since}"
    value = str(row.value).lower() if isinstance(row.value, bool) else str(row.value)
    return (_quoted(row.names), f"`{value}`", hardware, programs, row.reason, row.source)


def _fabric(name: str, fabric: Fabric) -> str:
    interfaces = (
        f"{fabric.interfaces[0][0]} to {fabric.interfaces[-1][0]} in {fabric.interfaces[0][1]} to "
        f"{fabric.interfaces[-1][1]}"
    )
    paths = {
        path.path: path.read_only
        for path in (*fabric.host_paths, *(fabric.sidecar.host_paths if fabric.sidecar else ()))
    }
    directories = ", ".join(f"`{path}`{'' if read_only else ' (writable)'}" for path, read_only in paths.items())
    sidecar = (
        f"`{fabric.sidecar.image}`, {', '.join(fabric.sidecar.capabilities)}" if fabric.sidecar is not None else "none"
    )
    return f"| `{name}` | {fabric.name} | {interfaces} | {directories} | {sidecar} | `{fabric.plugin}` |"


def _elsewhere(name: str, known: KnownFabric) -> tuple[str, ...]:
    fabric = known.fabric

    def pairs(values: dict[str, str], sign: str) -> str:
        return _quoted(f"{key}{sign}{value}" for key, value in values.items()) or "none"

    return (
        f"`{name}`",
        known.machine,
        _quoted(fabric.types) or "any GPU",
        str(fabric.gigabits_per_second or "not known"),
        pairs(fabric.node_selector, ": "),
        pairs(fabric.resources, ": "),
        pairs(fabric.variables, "="),
        pairs(fabric.annotations, ": "),
        _quoted(fabric.needs) or "nothing",
    )


def _provisioning() -> Iterable[str]:
    for kind in ("onDemand", "spot", "reservation", "flexStart", "queued"):
        types = _quoted(row.name for row in TABLE.values() if kind in row.provisioning)
        label = f'`{PROVISIONING_LABELS[kind]}: "true"`' if kind in PROVISIONING_LABELS else "none"
        label = "`cloud.google.com/reservation-name: RESERVATION` (no taint)" if kind == "reservation" else label
        yield f"| `{kind}` | {label} | {'all' if kind == 'onDemand' else types} |"


def _host_memory() -> Iterable[str]:
    sizes = {row.machine_of(chips): size for row in TABLE.values() for chips, size in row.machine_sizes.items()}
    for machine, (host, cpus) in sizes.items():
        yield f"| `{machine}` | {host} GiB | {left_of_host_gib(host)} GiB | {cpus} | {cpus // 2} |"


def _sources() -> Iterable[tuple[str, ...]]:
    found: dict[tuple[str, str], list[str]] = {}
    for row in TABLE.values():
        found.setdefault((row.source, row.as_of), []).append(f"`{row.name}`")
        if row.fabric is not None:
            source, _, read = row.fabric.source.partition(", read ")
            found.setdefault((source, read), []).append(f"network of `{row.name}`")
    for name, known in built_in_fabrics().items():
        found.setdefault((known.source, known.read), []).append(f"fabric `{name}`")
    rows = [(", ".join(names), source, as_of) for (source, as_of), names in found.items()]
    source, _, read = PRICES.partition(", read ")
    rows.append(("list prices of a chip-hour", source, read))
    return [*rows, ("`provisioning`", PROVISIONING_SOURCE, PROVISIONING_AS_OF)]


def _powers(row: Accelerator) -> tuple[str, ...]:
    memory, peak = row.memory_bytes, row.peak_flops_per_second
    return (
        "not known" if memory is None else f"{memory / 1e9:.0f} GB",
        "not known" if peak is None else f"{peak / 1e12:.0f} TFLOP/s",
        ", ".join(row.narrow) or "no",
        "not known" if row.list_price is None else f"${row.list_price:.2f}",
    )


def _tried(row: Accelerator) -> str:
    return row.tried or "**never**"

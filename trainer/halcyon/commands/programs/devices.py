"""Devices that a document names, described to the compilers on a machine without them, and its step, compiled for them.

libtpu knows every generation of TPUs and every topology. XLA compiles for an NVIDIA GPU whose facts it is given
(`halcyon.commands.programs.gpus`). JAX then has devices that nothing can run on. Code that asks JAX which hardware it
runs on would see the processor of this machine, so `described` answers for the devices while a program is traced.
"""

import contextlib
import importlib
import importlib.util
import os
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
from jax.experimental import topologies
from jax.extend import backend
from jax.sharding import Mesh

from halcyon.commands.programs.gpus import GPUS
from halcyon.parallel.device_mesh import build_mesh
from halcyon.run.auto_tuning import planned
from halcyon.step.device_use import Plan
from halcyon.step.hlo.work import Rates
from halcyon.step.program import Program
from halcyon_api.hardware.kinds import Accelerator
from halcyon_api.mesh import run_mesh
from halcyon_api.package import install
from halcyon_api.spec.accelerator import AcceleratorSpec
from halcyon_api.training_run import TrainingRunSpec

_TPU_NAMES = {"v7x": "tpu7x"}
"""libtpu's names of generations, where they differ from ``accelerator.type``."""
_WITHOUT_DEVICE = ("--xla_gpu_autotune_level=0", "--xla_gpu_enable_triton_gemm=false")
"""XLA tries kernels of matrix products on the GPU to choose one. Without a GPU it takes the library's."""
_PLUGINS = ("jax_plugins.xla_cuda13", "jax_plugins.xla_cuda12")


class NoCompiler(Exception):
    """There is no compiler for the hardware here.

    The message is one sentence with the reason, and the extra to install if there is one.
    """


def why_not(accelerator: Accelerator) -> str | None:
    """Why this environment has no compiler for an accelerator, as one sentence; None if it has one."""
    if accelerator.family == "tpu":
        return None if _has("libtpu") else _elsewhere(accelerator)
    if accelerator.family != "gpu":
        return f"{accelerator.name} is no accelerator"
    if accelerator.name not in GPUS:
        return f"the hardware table has no facts of {accelerator.name} for a compiler; name one of {', '.join(GPUS)}"
    if any(map(_has, _PLUGINS)):
        return None
    return _elsewhere(accelerator)


def _elsewhere(accelerator: Accelerator) -> str:
    extra = accelerator.extra
    return (
        f"the compiler for {accelerator.name} is in images built with ACCELERATOR={extra}, and in the extra {extra}: "
        f"{install(extra)}"
    )


def _has(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:  # of a package that is not there
        return False


def devices_of(spec: AcceleratorSpec, slices: int) -> list[Any]:
    """The JAX devices of a document's hardware. Sets flags of the compiler in the environment of this process.

    A process can compile for one type of accelerator only: the compilers read their flags once. Flags that the
    environment already has win.

    Args:
        spec: ``spec.accelerator``.
        slices: Number of slices.

    Raises:
        NoCompiler: The compiler is not installed, or the hardware is not known to it.
    """
    accelerator = spec.row
    if (reason := why_not(accelerator)) is not None:
        raise NoCompiler(reason)
    jax.config.update("jax_platforms", "cpu")  # JAX would look for the accelerator itself
    _set_flags(accelerator)
    try:
        if accelerator.family == "tpu":
            name = f"{_TPU_NAMES.get(accelerator.name, accelerator.name)}:{spec.topology}"
            return list(
                topologies.get_topology_desc(platform="tpu", topology_name=name, **_tpu_options(spec, slices)).devices
            )
        hosts, devices = (int(side) for side in spec.topology.split("x"))
        options = {"target_config": GPUS[accelerator.name].target_config, "topology": f"{slices}x{hosts}x{devices}"}
        return list(topologies.get_topology_desc(platform="cuda", **options).devices)
    except jax.errors.JaxRuntimeError as error:
        raise NoCompiler(
            f"the compiler does not take {accelerator.name} {spec.topology}: {str(error).splitlines()[0]}"
        ) from None


def _tpu_options(spec: AcceleratorSpec, slices: int) -> dict[str, Any]:
    shape = spec.row.shape(spec.topology)
    one = {"chips_per_host_bounds": (1, 1, 1)} if shape is not None and shape.chips_per_host == 1 else {}
    # The two cores of a v4 chip are one device, as on a real machine.
    cores = {"chip_config_name": "megacore"} if spec.row.name == "v4" else {}
    return {**one, **cores, **({"num_slices": slices} if slices > 1 else {})}


def _set_flags(accelerator: Accelerator) -> None:
    """Add the flags of a compiler without its device to this process."""
    if accelerator.family == "gpu":
        _add("XLA_FLAGS", _WITHOUT_DEVICE)
        return
    libtpu = importlib.import_module("libtpu")
    # No TPU is used, so several processes may compile at a time, and none asks the metadata server of a cloud.
    for name, value in {
        "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
        "TPU_SKIP_MDS_QUERY": "1",
        "TPU_LIBRARY_PATH": libtpu.get_library_path(),
    }.items():
        os.environ.setdefault(name, value)


def _add(variable: str, flags: Sequence[str]) -> None:
    known = os.environ.get(variable, "").split()
    given = {flag.partition("=")[0] for flag in known}
    os.environ[variable] = " ".join([*known, *(flag for flag in flags if flag.partition("=")[0] not in given)])


@contextlib.contextmanager
def described(device: Any) -> Iterator[None]:
    """Let code that asks JAX for its hardware see a described device. Use it around tracing and lowering, in one thread
    only.

    Three questions are answered: the platform of the process (``jax.default_backend``, asked by Halcyon and Haliax),
    the default device (``jax.extend.backend.get_default_device``, asked by tokamax for the number of cores and the
    compute capability), and the kind of device of the abstract mesh (asked by Pallas when it lowers a kernel). tokamax
    also asks ``jax.devices()``, only to find GPUs of a compute capability before 8, for which Halcyon has no kernels.

    Args:
        device: A device of `devices_of`, or a `halcyon.commands.programs.gpus.Gpu`.
    """
    cores = getattr(device, "num_cores" if device.platform == "tpu" else "core_count", None)
    kind = jax.sharding.AbstractDevice(device_kind=device.device_kind, num_cores=cores, platform=device.platform)
    mesh = jax.sharding.AbstractMesh((), (), abstract_device=kind)
    with (
        _replaced(jax, "default_backend", lambda: device.platform),
        _replaced(backend, "get_default_device", lambda: device),
        jax.sharding.use_abstract_mesh(mesh),
    ):
        yield


@contextlib.contextmanager
def _replaced(module: Any, name: str, function: Callable[[], Any]) -> Iterator[None]:
    before = getattr(module, name)
    setattr(module, name, function)
    try:
        yield
    finally:
        setattr(module, name, before)


def described_mesh(spec: TrainingRunSpec) -> Mesh:
    """The mesh of a run over devices that are described to the compiler. For one accelerator type in a process.

    Raises:
        NoCompiler: See `devices_of`.
    """
    mesh = run_mesh(spec)
    return build_mesh(mesh, devices_of(spec.accelerator, mesh.replica))


def plan_for_hardware(
    spec: TrainingRunSpec, vocabulary: int, rates: Rates | None, doing: Callable[[str], None]
) -> tuple[Program, Plan]:
    """The program and the plan of a run, by a step that is compiled for its own hardware.

    Args:
        spec: The run's spec.
        vocabulary: Tokens of its tokenizer.
        rates: Speed of a device. None: not known.
        doing: See `halcyon.run.auto_tuning.chosen`.

    Raises:
        NoCompiler: There is no compiler for the hardware here.
        BadConfiguration: No step fits into the memory, or the devices cannot compute the document.
    """
    mesh = described_mesh(spec)
    with described(mesh.devices.flat[0]):
        return planned(spec, vocabulary, mesh, spec.accelerator.row.memory_bytes, rates, doing)

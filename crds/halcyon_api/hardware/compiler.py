"""Options of XLA by generation of hardware, each with its reason.

The trainer passes them with each program that it compiles, in a cluster and on a user's machine alike. An option that
the user's ``XLA_FLAGS`` or ``LIBTPU_INIT_ARGS`` names is left to the user. docs/hardware.md has options that other
projects set, with the reason why they are not here. The figures in the reasons are of programs that were compiled
without the hardware; none was measured on it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from halcyon_api.hardware import row_of_device
from halcyon_api.hardware.gpu import ARCHITECTURES

Generation = str
"""A generation of TPUs, by its ``accelerator.type``, or of NVIDIA GPUs, ``cc`` with the first number of their compute
capability.
"""

FIRST_JAX = (0, 11)
"""Oldest version of JAX that the trainer runs with."""


@dataclass(frozen=True)
class CompilerOption:
    """Options of XLA that have one purpose."""

    names: tuple[str, ...]
    value: bool | int | str
    generations: tuple[Generation, ...]
    reason: str
    source: str
    several_devices: bool = False
    """Only for programs of several devices: the option changes what devices send."""
    one_block: bool = False
    """Only for programs that compute one block in an iteration of their loops (``trainer.unroll``)."""
    since: tuple[int, int] = FIRST_JAX
    """First version of JAX whose compiler was seen to take the option.

    A compiler that does not know it ends the run.
    """


COMPILER_OPTIONS: tuple[CompilerOption, ...] = (
    CompilerOption(
        ("xla_gpu_pipeline_all_gather", "xla_gpu_pipeline_all_reduce", "xla_gpu_pipeline_reduce_scatter"),
        "COLLECTIVE_PIPELINING_MODE_ON",
        ("cc9", "cc10"),
        "gathers the parameters of a block during the block before it, and adds up its gradients during the next one: "
        "85 % covered instead of 59 % (8B on H200), 88 % instead of 73 % (70B on H200), 84 % instead of 58 % (8B on "
        "B200). Needs memory for a second block: 1.0 GB (8B on H200), 7.7 GB (70B). Without the option for sums it is "
        "62 %, because XLA makes scatters of sums after this; with two blocks in one iteration it is 63 %. On A100 "
        "nothing changes",
        "JAX-Toolbox, rosetta/docs/GPU_performance.md, with the names of older versions",
        several_devices=True,
        one_block=True,
        since=(0, 12),
    ),
    CompilerOption(
        ("xla_tpu_scoped_vmem_limit_kib",),
        98_304,
        ("v6e",),
        "lets one operation use 96 of the 128 MB of VMEM of a chip. An ideal device then computes a step of 8B in 1.5 "
        "% less time",
        "MaxText, benchmarks/xla_flags_library.py",
    ),
)


def generation_of(device_kind: str, compute_capability: str = "") -> Generation | None:
    """The generation of a device; None: a CPU, or hardware that is not in the table.

    Args:
        device_kind: JAX's name of the kind of device.
        compute_capability: Of an NVIDIA GPU, such as ``9.0``.
    """
    major, row = compute_capability.partition(".")[0], row_of_device(device_kind)
    if any(major == str(known) for known, _ in ARCHITECTURES):
        return f"cc{major}"
    return row.name if row and row.family == "tpu" else None


def title(generation: Generation) -> str:
    """Words for a generation in a list."""
    number = generation.removeprefix("cc")
    return f"GPUs of compute capability {number}" if number != generation else f"`{generation}`"


def options_of(
    generation: Generation | None,
    *,
    devices: int,
    jax: tuple[int, ...],
    unroll: int = 1,
    rows: Sequence[CompilerOption] = COMPILER_OPTIONS,
) -> dict[str, bool | int | str]:
    """XLA's options for a generation.

    Args:
        generation: The generation of the devices.
        devices: Number of devices of the program.
        jax: Version of JAX.
        unroll: Blocks in one iteration of its loops.
        rows: The table.
    """
    fitting = (
        row
        for row in rows
        if generation in row.generations
        and jax >= row.since
        and (devices > 1 or not row.several_devices)
        and (unroll == 1 or not row.one_block)
    )
    return {name: row.value for row in fitting for name in row.names}


def without_flags(options: Mapping[str, bool | int | str], environ: Mapping[str, str]) -> dict[str, bool | int | str]:
    """The options that the user's flags do not name.

    Args:
        options: XLA's options by name.
        environ: The environment of the process, with ``XLA_FLAGS`` and ``LIBTPU_INIT_ARGS``.
    """
    words = " ".join(environ.get(name, "") for name in ("XLA_FLAGS", "LIBTPU_INIT_ARGS")).split()
    flags = {word.lstrip("-").partition("=")[0] for word in words}
    return {name: value for name, value in options.items() if name not in flags}

"""What other launchers say of a process, and the sentences about what they do not say."""

from __future__ import annotations

import pytest

from halcyon.host.errors import BadConfiguration
from halcyon.host.launchers import Member, first_host, member, own_devices

TORCHRUN = {"RANK": "5", "WORLD_SIZE": "16", "LOCAL_RANK": "1", "MASTER_ADDR": "a", "MASTER_PORT": "29500"}
SLURM = {
    "SLURM_PROCID": "3",
    "SLURM_STEP_NUM_TASKS": "4",
    "SLURM_LOCALID": "1",
    "SLURM_JOB_ID": "8",
    "SLURM_STEP_ID": "1",
    "SLURM_STEP_NODELIST": "gpu[07-08]",
}
OPEN_MPI = {"OMPI_COMM_WORLD_RANK": "1", "OMPI_COMM_WORLD_SIZE": "2", "OMPI_COMM_WORLD_LOCAL_RANK": "1"}


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        (TORCHRUN, Member(5, 16, "a:29501", 1)),
        (SLURM, Member(3, 4, f"gpu07:{61440 + 2 * 249}", 1)),
        (SLURM | TORCHRUN, Member(5, 16, "a:29501", 1)),
        ({"SLURM_PROCID": "0", "SLURM_JOB_ID": "8"}, None),
        (SLURM | {"SLURM_STEP_NUM_TASKS": "1", "SLURM_PROCID": "0"}, None),
        ({"RANK": "1"}, None),
        ({}, None),
    ],
    ids=["torchrun", "srun", "torchrun in a job", "batch script", "one task", "other RANK", "none"],
)
def test_the_place_of_a_process_is_what_its_launcher_says(environ: dict[str, str], expected: Member | None) -> None:
    assert member(environ) == expected


def test_options_come_before_variables() -> None:
    assert member({}, "h:9000", 2, 1) == Member(1, 2, "h:9000")
    assert member(TORCHRUN, "h:9000", None, 4) == Member(4, 16, "h:9000", 1)
    assert member(SLURM | OPEN_MPI, "h:9000") == Member(1, 2, "h:9000", 1), "an MPI in a job of SLURM"


@pytest.mark.parametrize(
    ("environ", "options", "sentence"),
    [
        (OPEN_MPI, (None, None, None), "Open MPI does not say where process 0 is"),
        ({}, ("h:9000", 2, None), "--process"),
        ({}, (None, 2, 0), "--coordinator"),
        ({}, ("h:9000", 2, 2), "--process: 2 is not one of 2 processes"),
        ({}, ("h", 2, 0), "--coordinator: h is not HOST:PORT"),
        ({}, ("h:65535", 2, 0), "below 65535"),
        (TORCHRUN | {"WORLD_SIZE": "many"}, (None, None, None), "a variable of torchrun is missing or malformed"),
        (SLURM | {"SLURM_HET_SIZE": "2"}, (None, None, None), "a heterogeneous job"),
        (SLURM | {"SLURM_ARRAY_TASK_ID": "2"}, (None, None, None), "a job array"),
    ],
)
def test_what_is_missing_is_one_sentence(
    environ: dict[str, str], options: tuple[str | None, int | None, int | None], sentence: str
) -> None:
    with pytest.raises(BadConfiguration) as error:
        member(environ, *options)
    assert sentence in str(error.value)


@pytest.mark.parametrize(
    ("nodes", "first"),
    [
        ("a", "a"),
        ("a,b", "a"),
        ("gpu[003-007,9],b", "gpu003"),
        ("a-[5,7]-ib,c", "a-5-ib"),
        ("rack[0-1]node[2-3]", "rack0node2"),
    ],
)
def test_the_first_host_of_a_list_of_slurm(nodes: str, first: str) -> None:
    assert first_host(nodes) == first


@pytest.mark.parametrize(
    ("visible", "local", "own", "of_host", "expected"),
    [
        (None, 3, 1, 8, "3"),
        ("4,5,6,7", 1, 2, 8, "6,7"),
        ("6", 1, 1, 8, None),
        (None, 0, 8, 8, None),
        (None, None, 1, 8, None),
    ],
    ids=["one task a GPU", "a part of the host", "SLURM has chosen", "one task a host", "not known"],
)
def test_a_process_takes_its_share_of_the_devices_of_its_host(
    visible: str | None, local: int | None, own: int, of_host: int, expected: str | None
) -> None:
    assert own_devices(visible, local, own, of_host) == expected

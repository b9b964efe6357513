"""A run whose device computes or keeps wrong numbers notices it, goes back, and ends with the bits of an undisturbed
run.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from halcyon.checkpoint import list_checkpoints
from halcyon.checkpoint.arrays import compare
from halcyon.checkpoint.layout import flatten
from halcyon.checkpoint.retention import PROGRAMS_PREFIX
from halcyon.step.audit import Audit, Finding
from halcyon.step.program import STEP_MODULE
from halcyon.weights.folder import address
from halcyon_api.ends import ExitCode
from tests.faults import rows
from tests.faults.table import Trials
from tests.ports import free_port
from tests.suite import promises
from tests.suite.limits import limit
from tests.trainer.run.test_resume import newest_checkpoint
from tests.trainer.step.test_audit import LENGTH, ROWS, batch_for, first_state, flipped, program_on
from tests.trainer.support.process_groups import TrainerProcesses, run_document, start_processes

pytestmark = [pytest.mark.slow, rows.CORRUPTION]

STEPS, EVERY = 20, 5
MODULE = "tests.trainer.support.faulty_child"
INJECTED = "tests.trainer.support.injected_child"


def document(folder: Path, name: str, slices: int, **audit: Any) -> dict[str, Any]:
    """A run that audits each step after which it saves."""
    run = run_document(
        folder / name, slices=slices, steps=STEPS, batchSize=12, sequenceLength=32, microbatches=2, logEverySteps=1
    )
    run["spec"]["checkpoint"]["keep"] = 2
    run["spec"]["recovery"] = {"audit": {"everySteps": EVERY} | audit}
    return run


@pytest.mark.parametrize(
    ("on", "model"),
    [
        ("replica 3", "llama"),
        pytest.param("replica 4 x fsdp 2", "mixtral", marks=pytest.mark.variant),
        pytest.param("data 3 x tensor 2", "qwen3Next", marks=pytest.mark.variant),
    ],
)
def test_random_bits_of_the_state_are_found_and_their_device_is_named(on: str, model: str, trials: Trials) -> None:
    program = program_on(on, model)
    audit, state, noise = Audit(program), first_state(program), np.random.default_rng(0)
    paths = [leaf.path for leaf in flatten(program.template)]
    values = [np.asarray(leaf).reshape(-1)[0] for leaf in jax.tree.leaves(state)]
    norm = next(
        number for number, path in enumerate(paths) if path.startswith("model.") and "norm" in path and values[number]
    )
    for number in range(150):
        device, leaf = int(noise.integers(program.mesh.size)), int(noise.integers(len(paths)))
        assert audit.state(flipped(state, device, leaf, noise)) == Finding("state", (device,), certain=True), paths[
            leaf
        ]
        trials.count("flipped bits of the state")
        assert audit.state(state) is None
        # Each gradient depends on a norm, so its bits show the wrong parameter too.
        if number % 3 == 0:
            found = audit.gradient(flipped(state, device, norm, noise, bit=22), batch_for(program, number))
            assert found is not None
            assert device in found.devices
            assert found.certain
            assert audit.gradient(state, batch_for(program, number)) is None
            trials.count("gradients with a flipped bit of a parameter")
            trials.count("audits of right numbers")


LONG = [pytest.mark.variant, pytest.mark.long]


@pytest.mark.parametrize(
    ("steps", "meshes", "model", "rule", "microbatches"),
    [
        (30, ("replica 3", "replica 2 x fsdp 2"), "llama", "muon", 2),
        *(
            pytest.param(2_000, *case, marks=LONG)
            for case in (
                (("replica 3", "replica 2", "replica 4"), "llama", "adamw", 1),
                (("replica 2 x fsdp 2", "replica 4 x fsdp 2"), "llama", "muon", 2),
                (("data 4", "replica 2 x data 2 x fsdp 2"), "gpt2", "lion", 3),
                (("replica 2 x tensor 2", "replica 4 x tensor 2"), "llama", "adafactor", 1),
                (("replica 2 x fsdp 2 x context 2",), "llama", "adamw", 1),
                (("replica 2 x fsdp 2 x expert 2", "replica 2 x fsdp 4"), "mixtral", "adamw", 1),
                (("replica 4 x tensor 2", "replica 2 x tensor 2"), "deepseekV3", "muon", 2),
                (("replica 2 x fsdp 2 x tensor 2", "replica 3"), "qwen3Next", "adamw", 1),
                (("replica 8", "replica 4"), "nanochat", "muon", 3),
                (("fsdp 8", "fsdp 4"), "llama", "adamw", 2),
            )
        ),
    ],
)
def test_right_numbers_raise_no_alarm_while_a_run_trains(
    steps: int, meshes: tuple[str, ...], model: str, rule: str, microbatches: int, trials: Trials
) -> None:
    """Each step is audited. The state moves from mesh to mesh, as when a run starts again on other slices."""
    state: Any = None
    for on in meshes:
        program = program_on(on, model, microbatches, rule=rule)
        audit, step = Audit(program), program.compile_step(ROWS, LENGTH)
        control = jax.device_put(np.zeros(program.mesh.size, np.int32), program.control_sharding)
        shapes = program.template
        state = (
            first_state(program)
            if state is None
            else jax.tree.map(lambda leaf, to: jax.device_put(leaf, to.sharding), jax.device_get(state), shapes)
        )
        assert audit.products() is None
        for number in range(steps // len(meshes)):
            batch = batch_for(program, number)
            state, _ = step(state, batch, control)
            assert (audit.state(state), audit.gradient(state, batch)) == (None, None), (on, number)
            trials.count("audited steps with right numbers")


@pytest.mark.parametrize(
    ("injections", "wrong", "model", "rule"),
    [
        (12, "1", "llama", "adamw"),
        *(pytest.param(150, "0,1,2", *case, marks=LONG) for case in (("llama", "adamw"), ("mixtral", "muon"))),
    ],
)
def test_random_faults_in_processes_are_found_and_named_and_their_steps_done_again(
    injections: int, wrong: str, model: str, rule: str, trials: Trials
) -> None:
    count, coordinator = 3, f"127.0.0.1:{free_port()}"
    started = [
        subprocess.Popen(
            [sys.executable, "-m", INJECTED, str(index), str(count), coordinator, str(injections), wrong, model, rule],
            env=os.environ | {"JAX_PLATFORMS": "cpu"},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for index in range(count)
    ]
    try:
        with ThreadPoolExecutor(count) as readers:
            outputs = list(
                readers.map(lambda process: process.communicate(timeout=limit(60 + 5 * injections)), started)
            )
    finally:
        for process in started:
            process.kill()
    assert [process.returncode for process in started] == [0] * count, outputs
    reports = [json.loads(output.splitlines()[-1]) for output, _ in outputs]
    assert [report["equal"] for report in reports] == [True] * count
    for injected in zip(*(report["injections"] for report in reports), strict=True):
        one = injected[0]
        assert all(other["named"] == one["named"] for other in injected), "the processes decide alike"
        if one["named"]:
            assert (one["found"], one["named"]) == (
                "state" if one["fault"] == "state" else "gradient",
                [one["process"]],
            )
            trials.count("faults of a process")
        else:
            assert one["fault"] == "state"
            assert all(each["gone"] for each in injected), one
            trials.count("bits that rounding removed")


def events(group: TrainerProcesses, name: str) -> list[dict[str, Any]]:
    return [event for event in group.leader.events if event.get("event") == name]


def calm_root(folder: Path, slices: int) -> dict[int, float]:
    """Train without a fault; the losses."""
    calm = start_processes(document(folder, "calm", slices), folder / "of-calm", share_programs=False).ended()
    assert [process.popen.poll() for process in calm.processes] == [0] * slices, calm.leader.output_tail()
    assert [event["step"] for event in events(calm, "audited")] == [5, 10, 15, 20]
    assert events(calm, "corrupted") == []
    kept = {path.name.partition("-")[0] for path in (folder / "calm" / PROGRAMS_PREFIX).rglob("*-cache.*")}
    assert kept >= {STEP_MODULE, "jit_audit_state", "jit_audit_products", "jit_audit_gradient"}, "for the next start"
    return calm.leader.losses()


@promises.CORRUPTED
@pytest.mark.parametrize(
    ("fault", "step", "process", "what", "every"),
    [
        ("bit", 7, 1, "copies of the state differ", EVERY),
        # The checkpoint of step 15 has wrong numbers and is given up. Then HEAD is lost.
        ("arithmetic", 12, 2, "two computations of a gradient differ", 2 * EVERY),
        pytest.param("arithmetic", 12, 2, "two computations of a gradient differ", EVERY, marks=pytest.mark.variant),
        pytest.param("once", 15, 1, "two computations of a gradient differ", EVERY, marks=pytest.mark.variant),
    ],
)
def test_a_run_with_a_wrong_device_names_it_goes_back_and_ends_with_the_right_bits(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    trials: Trials,
    fault: str,
    step: int,
    process: int,
    what: str,
    every: int,
) -> None:
    losses = calm_root(tmp_path, 3)
    in_memory: dict[str, Any] = {"flipBit": {"step": step, "process": process}} if fault == "bit" else {}
    run = document(tmp_path, "root", 3, everySteps=every, **in_memory)
    child: dict[str, Any] = {} if in_memory else {"module": MODULE, "own_interpreter": True}
    for name, value in {"FAULT": fault, "FAULTY": str(process), "FAULT_STEP": str(step)}.items():
        monkeypatch.setenv(name, value)
    faulty = start_processes(run, tmp_path / "run", share_programs=False, **child).ended()
    assert [one.popen.poll() for one in faulty.processes] == [ExitCode.CORRUPTED] * 3, faulty.leader.output_tail()
    found, confirmed = -(-step // every) * every, (step - 1) // every * every
    (event,) = events(faulty, "corrupted")
    assert (event["step"], event["processes"]) == (found, [process])
    assert event["message"] == f"step {found}: {what}: 1 device of process {process} has wrong numbers"
    reports = [one.report() for one in faulty.processes]
    assert {report["cause"] for report in reports} == {"corrupted"}
    assert reports[process]["message"].endswith(f"the run goes on from step {confirmed}")
    assert {report["checkpointStep"] for report in reports} == {confirmed}
    assert [report.get("peerLost") for report in reports] == [None if n == process else process for n in range(3)]
    head = list_checkpoints(address(str(tmp_path / "root")))
    assert (head.committed[0].step, head.committed[0].audited) == (confirmed, confirmed)

    for name in ("FAULT", "FAULTY", "FAULT_STEP"):
        monkeypatch.delenv(name)
    shutil.rmtree(tmp_path / "root/programs", ignore_errors=True)
    if found - confirmed > EVERY:
        (tmp_path / "root/HEAD").write_bytes(b"x")
    healthy = start_processes(run, tmp_path / "run", restart=1, share_programs=False).ended()
    assert [one.popen.poll() for one in healthy.processes] == [0] * 3, healthy.leader.output_tail()
    assert [event["step"] for event in events(healthy, "restored")] == [confirmed]
    assert {**faulty.leader.losses(), **healthy.leader.losses()} == losses
    assert list(compare(*(newest_checkpoint(tmp_path / name) for name in ("calm", "root")))) == []
    trials.count("runs with a wrong device")


def test_with_two_slices_a_report_names_both_and_the_run_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, trials: Trials
) -> None:
    for name, value in {"FAULT": "arithmetic", "FAULTY": "1", "FAULT_STEP": "12"}.items():
        monkeypatch.setenv(name, value)
    run = document(tmp_path, "root", 2, onMismatch="report")
    group = start_processes(run, tmp_path / "run", module=MODULE, share_programs=False, own_interpreter=True).ended()
    assert [one.popen.poll() for one in group.processes] == [0, 0], group.leader.output_tail()
    assert [event["step"] for event in events(group, "audited")] == [5, 10]
    assert [(event["step"], event["processes"]) for event in events(group, "corrupted")] == [(15, [0, 1]), (20, [0, 1])]
    assert events(group, "corrupted")[0]["message"].endswith("may have wrong numbers, and no majority says which")
    trials.count("runs with a wrong device")

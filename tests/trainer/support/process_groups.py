"""Starts real process groups of the trainer on this machine, as the operator and a JobSet do: same environment, same
exit codes.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import yaml

from halcyon_api.environment import PodEnvironment
from halcyon_api.mesh import run_mesh
from halcyon_api.reading import parse_run
from halcyon_devcluster.waiting import holds_within
from tests.families import llama
from tests.ports import free_port
from tests.suite.limits import limit
from tests.trainer.support.forked import Forked
from tests.trainer.support.shared_programs import QUICK_FLAGS, Programs, document_key


@dataclass
class Shared:
    """The state that all process groups of a test session share."""

    programs: Programs | None = None


shared = Shared()


def run_document(
    root: Path, *, slices: int = 2, topology: str = "1x1", name: str = "tiny", **trainer: Any
) -> dict[str, Any]:
    """A small run: a 2-layer Llama on eight text files, which are written beside the root."""
    corpus = root.parent / "corpus"
    if not corpus.exists():
        corpus.mkdir(parents=True)
        for number in range(8):
            lines = (
                f"{number} times {factor} is {number * factor}, and {factor * 7919 % 101} is another.\n"
                for factor in range(300)
            )
            (corpus / f"{number}.txt").write_text("".join(lines))
    return {
        "apiVersion": "halcyon.dev/v1alpha1",
        "kind": "TrainingRun",
        "metadata": {"name": name, "namespace": "tests"},
        "spec": {
            "accelerator": {"type": "cpu", "topology": topology, "slices": slices},
            "model": llama(2, 32, 64, 4, numKeyValueHeads=2),
            "data": {"sources": [{"name": "corpus", "text": {"paths": [str(corpus)]}}]},
            "optimizer": {
                "learningRate": 0.003,
                "schedule": {"cosine": {"warmupSteps": min(5, trainer.get("steps", 30))}},
                "adamw": {},
            },
            "trainer": {"steps": 30, "batchSize": 8, "sequenceLength": 64, **trainer},
            "checkpoint": {"root": f"file://{root}", "save": {"everySteps": 5}},
            "telemetry": {"port": free_port()},
        },
    }


@dataclass
class Process:
    """One trainer process with its log."""

    index: int
    popen: subprocess.Popen[str] | Forked
    termination_log: Path
    port: int = 0
    """Port of its telemetry."""
    events: list[dict[str, Any]] = field(default_factory=list)
    noise: list[str] = field(default_factory=list)
    _changed: threading.Condition = field(default_factory=threading.Condition)
    _readers: list[threading.Thread] = field(default_factory=list)

    def follow(self) -> None:
        """Read both streams: JSON lines become events, all other lines noise."""
        for stream in (self.popen.stdout, self.popen.stderr):
            reader = threading.Thread(target=self._read, args=(stream,), daemon=True)
            reader.start()
            self._readers.append(reader)

    def _read(self, stream: Any) -> None:
        for line in stream:
            with self._changed:
                try:
                    event = json.loads(line)
                    self.events.append(event if isinstance(event, dict) else {"event": "?", "value": event})
                except ValueError:
                    self.noise.append(line)
                self._changed.notify_all()
        with self._changed:
            self._changed.notify_all()

    def wait_for(self, condition: Callable[[list[dict[str, Any]]], bool], timeout_seconds: float = 120.0) -> None:
        """Wait until the events satisfy a condition.

        Args:
            condition: A condition on all events so far.
            timeout_seconds: Limit on the reference machine; longer on a slower one.

        Raises:
            AssertionError: The limit passed, or the process ended first.
        """
        with self._changed:
            met = holds_within(
                lambda: condition(self.events) or self.ended, timeout_seconds, pause=self._wait_for_change
            )
            if not met or not condition(self.events):
                raise AssertionError(self.output_tail())

    def _wait_for_change(self, seconds: float) -> None:
        self._changed.wait(seconds)

    @property
    def ended(self) -> bool:
        """Whether the process has ended."""
        return self.popen.poll() is not None

    def output_tail(self) -> str:
        """The end of the output of the process, for the message of a failure."""
        return f"process {self.index} (exit {self.popen.poll()}):\n{''.join(self.noise[-40:])}\n{self.events[-5:]}"

    def wait(self, timeout_seconds: float = 180.0) -> int:
        """Wait for the exit code. All output has been read when this returns.

        Args:
            timeout_seconds: Limit on the reference machine; longer on a slower one.
        """
        if not holds_within(lambda: self.ended, timeout_seconds, pause=self._wait_for_end):
            raise subprocess.TimeoutExpired(self.popen.args, timeout_seconds)
        code = self.popen.wait()
        for reader in self._readers:
            reader.join(limit(timeout_seconds))
        for stream in (self.popen.stdin, self.popen.stdout, self.popen.stderr):
            if stream is not None:
                stream.close()
        return code

    def _wait_for_end(self, seconds: float) -> None:
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.popen.wait(seconds)

    def losses(self) -> dict[int, float]:
        """Loss by step; a step logged twice keeps the last."""
        return {event["step"]: event["loss"] for event in self.events if event.get("event") == "step"}

    def report(self) -> dict[str, Any]:
        """The termination report."""
        return dict(json.loads(self.termination_log.read_text()))


@dataclass
class TrainerProcesses:
    """All processes of one (attempt, restart)."""

    processes: list[Process]
    root: Path | None = None
    """The checkpoint root whose compiled programs later runs of the same document may use."""
    document_key: str = ""
    """See `document_key`."""
    environments: list[dict[str, str]] = field(default_factory=list)
    """The environment of each process."""

    @property
    def leader(self) -> Process:
        """Process 0, which logs the steps."""
        return self.processes[0]

    def wait(self, timeout_seconds: float = 180.0) -> list[int]:
        """All exit codes. The limit is for each process, on the reference machine."""
        try:
            codes = [process.wait(timeout_seconds=timeout_seconds) for process in self.processes]
        except subprocess.TimeoutExpired as why:
            raise AssertionError("\n".join(process.output_tail() for process in self.processes)) from why
        if shared.programs is not None and self.root is not None:
            shared.programs.copy_from(self.root, self.document_key)
        return codes

    def ended(self) -> Self:
        """This process group, after all its processes have ended. A failed wait kills those that still run."""
        try:
            self.wait()
        finally:
            self.reap()
        return self

    def renewed(self, index: int) -> Process:
        """A new process in the place of one that has ended: that of a new pod, whose memory is empty."""
        old = self.processes[index]
        shutil.rmtree(self.environments[index].get("HALCYON_MEMORY", ""), ignore_errors=True)
        command = old.popen.args
        assert isinstance(old.popen, subprocess.Popen)
        popen = subprocess.Popen(
            command, env=self.environments[index], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        self.processes[index] = Process(index, popen, old.termination_log, old.port)
        return self.processes[index]

    def signal(self, number: signal.Signals, index: int) -> None:
        """Send a signal to one process."""
        self.processes[index].popen.send_signal(number)

    def reap(self) -> None:
        """Kill the processes that still run."""
        for process in self.processes:
            if process.popen.poll() is None:
                process.popen.kill()
            process.wait()


def start_processes(
    document: dict[str, Any],
    directory: Path,
    *,
    attempt: int = 1,
    restart: int = 0,
    resume_step: int = 0,
    one_process: bool = False,
    module: str = "halcyon.commands.main",
    grace_seconds: int | None = 30,
    save_token: str = "",
    address: str = "127.0.0.1",
    inside: Sequence[Sequence[str]] = (),
    share_programs: bool = True,
    own_interpreter: bool = False,
    supervised: bool = False,
) -> TrainerProcesses:
    """Start a process group as a JobSet does: one process a host. Each process gets its place from its environment.

    Args:
        document: The run document.
        directory: Folder for the document and the termination logs.
        attempt: Attempt of the epoch.
        restart: JobSet restart of the epoch.
        resume_step: The last committed step that the operator passes on.
        one_process: Run one process with virtual devices for all hosts, without the environment of a pod.
        module: The module to run: Halcyon's command, or a test's own command around it.
        grace_seconds: The grace period in the processes' environment.
        save_token: The token for checkpoint requests in the processes' environment.
        address: The address of process 0 for the others.
        inside: For each process, a command that starts it in its place, such as a network namespace. Default: this
            machine.
        own_interpreter: Start a new interpreter instead of forking: for a module that changes something before the
            trainer is imported.
        supervised: Start each process below a supervisor, as in a pod of a run with `recovery.inPlace`.
        share_programs: Use the programs that earlier runs of this document have compiled, and keep those of this run
            for later ones.
    """
    directory.mkdir(parents=True, exist_ok=True)
    run = parse_run(document)
    topology = run.spec.accelerator.resolve()
    coordinator = f"{address}:{free_port()}"
    compiled, agent_port = directory.parent / "xla", free_port()
    count = 1 if one_process else topology.processes
    root = _folder_of(document) if share_programs else None
    key = document_key(run.spec, count)
    if shared.programs is not None and root is not None:
        if count == 1:
            shared.programs.lend_here(compiled, key)
        else:
            shared.programs.copy_into(root, key)
    processes: list[Process] = []
    environments: list[dict[str, str]] = []
    for index in range(count):
        port = free_port()
        own = {
            **document,
            "spec": {**document["spec"], "telemetry": {**document["spec"].get("telemetry", {}), "port": port}},
        }
        path = directory / f"run-{attempt}.{restart}.{index}.yaml"
        path.write_text(yaml.safe_dump(own))
        termination_log = directory / f"termination-{attempt}.{restart}.{index}"
        termination_log.write_text("")
        environment = {
            key: value for key, value in os.environ.items() if not key.startswith(("HALCYON_", "JAX_", "XLA_"))
        }
        environment["JAX_PLATFORMS"] = "cpu"
        environment["XLA_FLAGS"] = QUICK_FLAGS
        if not one_process:
            pod = PodEnvironment(
                run_document=str(path),
                run_uid="uid-1",
                namespace=run.metadata.namespace,
                attempt=attempt,
                restart=restart,
                job_index=index // topology.hosts_per_slice,
                completion_index=index % topology.hosts_per_slice,
                slices=topology.slices,
                hosts_per_slice=topology.hosts_per_slice,
                devices_per_host=topology.devices_per_host,
                coordinator=coordinator,
                mesh=run_mesh(run.spec, topology),
                resume_step=resume_step,
                termination_log=str(termination_log),
                grace_seconds=grace_seconds,
                save_token=save_token,
            )
            environment |= pod.variables()
        place = inside[index] if inside else ()
        arguments = ["train", str(path), "--json", "--compilation-cache", str(compiled)]
        if supervised:
            module, arguments = "halcyon.host.agent.supervisor", [str(path)]
            environment |= {
                "HALCYON_AGENT_PORT": str(agent_port),
                "HALCYON_MEMORY": str(directory / f"memory-{index}"),
                "HOME": str(directory.parent),
            }
        popen = (
            _started_in(place, module, arguments, environment)
            if place or own_interpreter or supervised
            else Forked(module, arguments, environment)
        )
        process = Process(index, popen, termination_log, port)
        process.follow()
        processes.append(process)
        environments.append(environment)
    return TrainerProcesses(processes, root, key, environments)


def _folder_of(document: dict[str, Any]) -> Path | None:
    """The checkpoint root, if it is a folder."""
    scheme, _, path = document["spec"]["checkpoint"]["root"].partition("://")
    return Path(path) if scheme == "file" else None


def _started_in(
    place: Sequence[str], module: str, arguments: Sequence[str], environment: Mapping[str, str]
) -> subprocess.Popen[str]:
    """Start a new interpreter through the command `place`."""
    command = [*place, sys.executable, "-m", module, *arguments]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def each_restart(document: dict[str, Any], directory: Path, **options: Any) -> Iterator[TrainerProcesses]:
    """The process groups of one attempt, one restart after another, until all processes of one end with exit code 0."""
    restart = 0
    while True:
        group = start_processes(document, directory, restart=restart, **options)
        try:
            yield group
            codes = group.wait()
        finally:
            group.reap()
        if not any(codes):
            return
        restart += 1

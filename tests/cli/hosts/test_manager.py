"""Runs on hosts that are shells here, on a clock that is thirty times as fast: what the manager starts, ends and writes.
Real hosts: test_ssh.py and test_slurm.py.
"""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from halcyon.host.errors import BadConfiguration
from halcyon_api.checkpoint_documents import CommittedStep, Epoch, Head, Owner, encode_head
from halcyon_api.ends import ExitCode
from halcyon_api.host_lines import BEGAN, PORT, PREFIX, REPORT
from halcyon_api.reading import parse_run
from halcyon_api.status.run_status import TrainingRunStatus, parse_status
from halcyon_cli.hosts.manager import Manager
from halcyon_cli.hosts.places import Ssh
from halcyon_cli.hosts.process import HostProcess
from halcyon_cli.hosts.views import STATUS_KEY
from halcyon_cli.main import app
from halcyon_devcluster.waiting import until
from tests.api.documents import document
from tests.operator.builders import report
from tests.suite.limits import limit

FAST = 30.0
STAYS = "cat >/dev/null; exit 42"
"""A process that ends at a notice."""
DONE = "cp $ROOT/../HEAD $ROOT/HEAD; exit 0"
"""A process after the last step."""


@dataclass(frozen=True)
class Shells(Ssh):
    """Hosts that run a script: $0 is the host, $1 the process, $2 the attempt, $3 the restart."""

    script: str = ""
    root: Path = Path()
    put: list[list[str]] = field(default_factory=list)

    def command(self, host: str, words: Sequence[str]) -> list[str]:
        log = f"echo $0 $1 $2 $3 >> {self.root.parent}/starts; export ROOT={self.root}; echo '{BEGAN}'"
        said = {name: value for name, _, value in (word.partition("=") for word in words)}
        own = (words[-1], said["HALCYON_ATTEMPT"], said["HALCYON_RESTART"])
        return ["sh", "-c", f"{log}; {self.script}", host, *own]

    def put_back(self, avoided: Collection[str]) -> bool:
        self.put.append(list(avoided))
        return True


class Trial:
    """A run of two hosts, which may be managed several times."""

    def __init__(self, folder: Path, **changes: Any) -> None:
        self.root = folder / "root"
        self.root.mkdir()
        self.run = parse_run(
            document(
                spec__accelerator={"type": "cpu", "topology": "1x1", "slices": 2},
                spec__checkpoint__root=f"file://{self.root}", **changes,
            )
        )  # fmt: skip
        owner = Owner(namespace=self.run.metadata.namespace, name=self.run.metadata.name)
        epoch, steps = Epoch(attempt=1, restart=0), self.run.spec.trainer.steps
        for name, step in {"HEAD": steps, "HALF": steps // 2}.items():
            last = CommittedStep(
                step=step, epoch=epoch, path=f"steps/{step:012d}.000001.n/", manifest_sha256="0" * 64, size_bytes=9,
                time="2026-07-01T00:00:00Z",
            )  # fmt: skip
            (folder / name).write_bytes(encode_head(Head(owner=owner, epoch=epoch, committed=(last,))))
        self.places = Shells(())

    def manage(
        self, script: str, hosts: str = "ab", *, queued: bool = False, where: str | None = None, **options: Any
    ) -> int:
        """The exit code of a manager."""
        self.places = Shells(list(hosts), where=where, script=script, root=self.root, has_queue=queued)
        began, real = datetime.now(UTC), time.monotonic()

        def clock() -> datetime:
            return began + timedelta(seconds=FAST * (time.monotonic() - real))

        manager = Manager(self.run, self.places, (), clock=clock, **options)
        try:
            return manager.manage()
        finally:
            group = manager._last  # a manager that fails leaves its processes to the end of its own
            for one in () if group is None else group.processes:
                one.end()
                ended = lambda one=one: one.look() or not one.runs  # noqa: E731
                until(ended, timeout_seconds=limit(10), failure=lambda: "a process does not end")

    @property
    def status(self) -> TrainingRunStatus:
        """What the manager has written."""
        return parse_status(json.loads((self.root / STATUS_KEY).read_text())["status"])

    @property
    def causes(self) -> list[str | None]:
        """The causes of all ends."""
        return [entry.cause for entry in self.status.history]

    @property
    def avoided(self) -> list[str]:
        """The hosts that the run avoids."""
        placement = self.status.placement
        return [] if placement is None else [one.node for one in placement.avoided]

    @property
    def starts(self) -> set[str]:
        """Host, process, attempt and restart of each start."""
        return set((self.root.parent / "starts").read_text().splitlines())


@pytest.fixture
def trial(tmp_path: Path) -> Trial:
    return Trial(tmp_path)


def test_the_run_is_done_when_all_hosts_are(trial: Trial, capsys: pytest.CaptureFixture[str]) -> None:
    script = f"read -r token; test ${{#token}} -gt 20 || exit 80; echo of $1; {DONE}"
    assert trial.manage(script, "abc") == ExitCode.DONE
    assert (trial.status.phase, trial.causes, trial.status.attempt) == ("Succeeded", ["completed"], 1)
    assert trial.starts == {"a 0 1 0", "b 1 1 0"}, "c is a spare"
    said = capsys.readouterr()
    assert sorted(said.out.split()) == ["0", "1", "of", "of"], "the lines of the hosts without those for the manager"
    assert "halcyon: Succeeded: " in said.err
    assert trial.manage("exit 1") == ExitCode.DONE, "a run that is done starts nothing"


def test_a_reserved_exit_code_ends_all_hosts_and_is_that_of_the_run(trial: Trial) -> None:
    report = {"cause": "badConfiguration", "exitCode": 80, "message": "spec.data: no", "time": "2026-07-01T00:00:00Z"}
    script = f"test $1 = 0 && {{ {STAYS}; }}; echo '{REPORT}{json.dumps(report)}'; exit 80"
    assert trial.manage(script) == ExitCode.BAD_CONFIGURATION
    ready = trial.status.condition("Stalled")
    assert ready is not None
    assert (ready.reason, "spec.data: no" in ready.message) == ("BadConfiguration", True)
    assert trial.manage(DONE, by_user=False) == ExitCode.BAD_CONFIGURATION, "a queue does not start it again"
    assert trial.manage(DONE) == ExitCode.DONE, "and its user does"
    assert trial.status.attempt == 2


def test_a_crash_loop_without_a_checkpoint_stops(tmp_path: Path) -> None:
    trial = Trial(tmp_path, spec__recovery={"maxRestarts": 2, "badNodes": {"blames": 0}})
    assert trial.manage(f"test $1 = 0 && {{ {STAYS}; }}; exit 1") == ExitCode.FAILURE
    stalled = trial.status.condition("Stalled")
    assert stalled is not None
    assert (stalled.reason, set(trial.causes)) == ("RestartsExhausted", {"failed"})
    assert stalled.message.endswith("read the log of the run, then edit the spec, or start it again")
    assert trial.status.failures_without_checkpoint == 3


@pytest.mark.parametrize("end", ["exit 137", "exit 255"], ids=["killed", "connection"])
@pytest.mark.parametrize("hosts", ["ab", "abc"], ids=["alone", "spare"])
def test_a_lost_process_is_started_again_alone_while_the_others_stay(trial: Trial, end: str, hosts: str) -> None:
    mark = trial.root.parent / "mark"
    script = f"test $1 = 0 && while ! test -e {mark}.2; do sleep 0.01; done; test $1 = 0 && {{ {DONE}; }}"
    script += f"; test -e {mark} && {{ touch {mark}.2; exit 0; }}; touch {mark}; {end}"
    assert trial.manage(script, hosts) == ExitCode.DONE
    again = "c" if (hosts, end) == ("abc", "exit 255") else "b"
    assert trial.starts == {"a 0 1 0", "b 1 1 0", f"{again} 1 1 0"}, "a host whose connection is lost comes last"


def test_all_start_again_when_process_0_moves_to_a_spare(trial: Trial) -> None:
    assert trial.manage(f"test $0 = a && exit 255; test $3 = 0 && {{ {STAYS}; }}; {DONE}", "abc") == ExitCode.DONE
    assert trial.starts == {"a 0 1 0", "b 1 1 0", "b 0 1 1", "c 1 1 1"}
    assert trial.causes == ["preempted", "completed"]
    assert trial.status.restarts.preempted == 1


def test_no_end_is_missed_whenever_the_manager_looks(trial: Trial, monkeypatch: pytest.MonkeyPatch) -> None:
    """A process may end between any two looks."""
    look, looks = HostProcess.look, Counter[HostProcess]()

    def every_second(process: HostProcess) -> bool:
        looks[process] += 1
        return looks[process] % 2 == 0 and look(process)

    monkeypatch.setattr(HostProcess, "look", every_second)
    assert trial.manage(f"test $1 = 1 && exit 80; {STAYS}") == ExitCode.BAD_CONFIGURATION


def test_a_blamed_host_is_left_out(tmp_path: Path) -> None:
    trial = Trial(tmp_path, spec__recovery={"maxRestarts": 8, "badNodes": {"blames": 2}})
    assert trial.manage(f"test $0 = a && exit 1; test $2 = 1 && {{ {STAYS}; }}; exit 80", "abc") == 80
    assert trial.avoided == ["a"]
    assert {start.split()[0] for start in trial.starts if start.endswith(f"{trial.status.attempt} 0")} == {"b", "c"}


def test_a_process_that_leaves_its_host_goes_on_on_a_spare_while_the_others_stay(tmp_path: Path) -> None:
    trial = Trial(tmp_path, spec__recovery={"maxRestarts": 8, "badNodes": {"blames": 1}})
    script = f"test $0 = b && exit {ExitCode.LEAVES_NODE}; test $0 = c && {{ touch {tmp_path}/moved; exit 0; }}; "
    script += f"while ! test -e {tmp_path}/moved; do sleep 0.01; done; {DONE}"
    assert trial.manage(script, "abc") == ExitCode.DONE
    assert trial.starts == {"a 0 1 0", "b 1 1 0", "c 1 1 0"}
    assert trial.avoided == ["b"]


def test_the_process_of_a_slow_host_moves_to_a_spare_while_the_others_stay(tmp_path: Path) -> None:
    straggler = {"straggler": {"action": "replace"}, "badNodes": {"blames": 1}}
    trial = Trial(tmp_path, spec__recovery={"maxRestarts": 8, **straggler})
    slow = report(step=5, slow={"process": 1, "step": 5, "ratio": 3.0}, run=trial.run.metadata.name).model_dump_json(
        by_alias=True
    )
    with answering(slow.encode()) as port:
        script = f"test $0 = b && {{ {STAYS}; }}; test $0 = c && {{ touch {tmp_path}/moved; exit 0; }}; "
        script += f"cp $ROOT/../HALF $ROOT/HEAD; echo '{PORT}{port}'; while ! test -e {tmp_path}/moved; do sleep 0.01; done; {DONE}"
        assert trial.manage(script, "abc", where="127.0.0.1:1") == ExitCode.DONE
    assert trial.starts == {"a 0 1 0", "b 1 1 0", "c 1 1 0"}
    assert trial.avoided[0] == "b"


@contextmanager
def answering(body: bytes) -> Iterator[int]:
    """The port of a server that answers each GET with these bytes."""

    class Answer(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002
            """Say nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Answer) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server.server_address[1]
        server.shutdown()


def test_a_suspended_run_and_one_whose_budget_is_over_start_nothing(tmp_path: Path) -> None:
    for name, change in {
        "a": {"spec__suspend": True},
        "b": {"spec__budget": {"until": "2026-01-01T00:00:00Z"}},
    }.items():
        (tmp_path / name).mkdir()
        trial = Trial(tmp_path / name, **change)
        assert trial.manage(DONE) == ExitCode.PREEMPTED
        assert (trial.status.phase, (tmp_path / name / "starts").exists()) == ("Suspended", False)


def test_a_budget_that_ends_suspends_the_run(tmp_path: Path) -> None:
    until = (datetime.now(UTC) + timedelta(seconds=60)).isoformat(timespec="seconds")
    trial = Trial(tmp_path, spec__budget={"until": until})
    assert trial.manage(STAYS) == ExitCode.PREEMPTED
    ready = trial.status.condition("Ready")
    assert ready is not None
    assert (trial.status.phase, ready.reason, trial.causes) == ("Suspended", "BudgetSpent", ["suspended"])


def noticed(trial: Trial, number: int, **options: Any) -> int:
    """The exit code of a manager that gets a signal once both hosts have begun."""

    def send() -> None:
        until(lambda: len(trial.starts) == 2, timeout_seconds=30, failure=lambda: "no start")
        os.kill(os.getpid(), number)

    (trial.root.parent / "starts").touch()
    sender = threading.Thread(target=send)
    sender.start()
    code = trial.manage(STAYS, **options)
    sender.join()
    return code


def test_a_notice_saves_on_all_hosts_and_the_next_manager_goes_on(trial: Trial) -> None:
    assert noticed(trial, signal.SIGTERM) == ExitCode.PREEMPTED
    assert trial.causes == ["preempted"]
    assert trial.manage(DONE) == ExitCode.DONE
    assert (trial.status.attempt, trial.causes) == (2, ["preempted", "completed"])
    goodput = trial.status.goodput
    assert goodput is not None
    assert trial.status.restarts.preempted == 1


def test_a_job_goes_back_into_the_queue_after_a_notice(trial: Trial) -> None:
    assert noticed(trial, signal.SIGUSR1, queued=True) == ExitCode.PREEMPTED
    assert trial.places.put == [[]]


def test_a_job_without_enough_nodes_goes_back_and_names_those_to_leave_out(tmp_path: Path) -> None:
    trial = Trial(tmp_path, spec__recovery={"maxRestarts": 8, "badNodes": {"blames": 2}})
    assert trial.manage(f"test $0 = a && exit 1; {STAYS}", queued=True) == ExitCode.PREEMPTED
    assert trial.places.put == [["a"]]


def test_the_commands_show_the_status_in_a_root(trial: Trial) -> None:
    assert trial.manage(DONE) == ExitCode.DONE

    def shown(*words: str) -> str:
        result = CliRunner().invoke(app, [*words], env={"COLUMNS": "200"})
        assert result.exit_code == 0, result.output
        return result.stdout

    root = str(trial.root)
    assert "all 10 steps are done" in shown("status", root)
    found = json.loads(shown("status", root, "--output", "json"))
    assert (found["name"], found["status"]["phase"]) == (trial.run.metadata.name, "Succeeded")


def test_lines_that_only_look_like_those_for_the_manager_change_nothing(trial: Trial) -> None:
    lines = [f"{REPORT}{'x' * 9000}", f"{REPORT}{{}}", f"{REPORT}[1]", f"{PORT}99999999", f"{PORT}-1", f"{PREFIX}stop"]
    script = "; ".join(f"echo '{line}'" for line in lines)
    assert trial.manage(f"{script}; test $1 = 1 && exit 80; {STAYS}") == ExitCode.BAD_CONFIGURATION
    assert trial.causes == ["badConfiguration"]


def test_a_second_manager_of_a_root_is_refused(trial: Trial) -> None:
    # It writes before each end of a process, which this manager must report.
    other = f"test $1 = 1 || {{ echo '{{}}' > {trial.root / STATUS_KEY}; exit 1; }}; {STAYS}"
    with pytest.raises(BadConfiguration) as error:
        trial.manage(other)
    assert f"another manager writes file://{trial.root}/{STATUS_KEY}" in str(error.value)

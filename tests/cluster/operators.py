"""Operator processes beside the development cluster, for tests and benches. Each can be killed, stopped (SIGSTOP) and
continued (SIGCONT)."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prometheus_client.parser import text_string_to_metric_families

from halcyon_devcluster.waiting import until
from halcyon_operator.model.settings import VARIABLE
from tests.ports import free_port
from tests.suite.limits import limit

START_SECONDS = 60
NOWHERE = "http://object-store.invalid:7070"
"""Endpoint of the runs that never use their store."""
Condition = Callable[[], bool]


def stores(*endpoints: str) -> dict[str, Any]:
    """The value `objectStore` that allows endpoints, and `NOWHERE`."""
    return {"s3": {"endpoints": [NOWHERE, *endpoints]}}


@dataclass
class OperatorProcess:
    """One operator process from the checkout, with administrator rights."""

    name: str
    process: subprocess.Popen[bytes]
    port: int
    log: Path

    @classmethod
    def start(cls, name: str, kubeconfig: Path, namespace: str, folder: Path, **settings: Any) -> OperatorProcess:
        """Start an operator for a namespace. Keywords are values of the chart (`model.settings`). Without `lease` there
        is no leader election."""
        port, log = free_port(), folder / f"operator-{name}.log"
        usual = {"trainerImage": "none", "namespaces": [namespace], "log": {"format": "text"}, "objectStore": stores()}
        given = {VARIABLE: json.dumps(usual | settings | {"metrics": {"port": port}}), "HALCYON_POD_NAME": name}
        environment = os.environ | given | {"KUBECONFIG": str(kubeconfig)}
        with log.open("ab") as sink:
            command = [sys.executable, "-m", "halcyon_operator"]
            process = subprocess.Popen(command, env=environment, stderr=sink, stdout=sink, stdin=subprocess.DEVNULL)
        return cls(name, process, port, log)

    def get(self, path: str) -> tuple[int, str]:
        """Status code and body of a page; 0 and "" if the operator does not answer."""
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=limit(5)) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as refused:
            return refused.code, refused.read().decode()
        except OSError:
            return 0, ""

    def samples(self) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
        """Its metrics: (name, labels) → value."""
        families = text_string_to_metric_families(self.get("/metrics")[1])
        return {
            (sample.name, tuple(sorted(sample.labels.items()))): sample.value
            for family in families
            for sample in family.samples
        }

    @property
    def leads(self) -> bool:
        """Whether its metrics report that it leads."""
        return "\nhalcyon_operator_leader 1.0\n" in self.get("/metrics")[1]

    @property
    def ready(self) -> bool:
        """Whether its watches are filled."""
        return self.get("/readyz")[0] == 200

    def await_ready(self) -> None:
        """Wait until its watches are filled."""
        self.until(lambda: self.ready, "ready", START_SECONDS)

    def until(self, condition: Condition, what: str, seconds: float) -> None:
        """Wait until a condition of it holds."""
        until(
            condition,
            timeout_seconds=seconds,
            interval_seconds=0.2,
            failure=lambda: f"{self.name} is not {what}:\n{self.tail()}",
        )

    def tail(self) -> str:
        """The last 20 lines of its log."""
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-20:])

    def signal(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def kill(self) -> None:
        """Send SIGKILL and wait until it has ended."""
        self.process.kill()
        self.process.wait()

    def stop(self) -> int:
        """Send SIGTERM (SIGCONT first, in case it is stopped), wait until it has ended, and return its exit status."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGCONT)
            self.process.terminate()
        return self.process.wait(timeout=limit(60))

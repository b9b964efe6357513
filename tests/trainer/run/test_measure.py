"""Collectives that are measured: the rule that names a slow host, and a real host whose network is slow."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml

from halcyon.parallel.collectives import FACTOR, Measured, pairs, slow_islands
from halcyon.parallel.stragglers import slower
from halcyon.run.measure import verdict
from halcyon_api.ends import ExitCode
from tests.faults import networks
from tests.trainer.support.process_groups import run_document, start_processes


@pytest.mark.parametrize("islands", [*range(1, 12), 64])
def test_islands_meet_in_pairs(islands: int) -> None:
    met = set[tuple[int, int]]()
    for partners in pairs(islands):
        assert [partners[other] for other in partners] == list(range(islands)), "each island is in one pair"
        new = {(one, other) for one, other in enumerate(partners) if one < other}
        assert not met & new, "no pair meets twice"
        met |= new
    if islands <= 9:
        assert len(met) == islands * (islands - 1) // 2, "few islands: each meets each"
    assert all(sum(one in pair for pair in met) >= min(islands - 1, 8) for one in range(islands))


@pytest.mark.parametrize("islands", [3, 4, 5, 8, 40])
@pytest.mark.parametrize("slow", [(), (0,), (1,), (2,), (0, 1)])
@pytest.mark.parametrize("late", [False, True])
def test_the_slow_island_is_named_and_not_its_partners(islands: int, slow: tuple[int, ...], late: bool) -> None:
    seconds = np.array(
        [
            [5.0 if {one, other} & set(slow) else 1.0 for one, other in enumerate(partners)]
            for partners in pairs(islands)
        ]
    )
    if late:  # one island of each pair begins early, and waits for the other
        seconds[np.array(pairs(islands)) > np.arange(islands)] += 7
    seconds[np.array(pairs(islands)) == np.arange(islands)] = 0.001  # without a partner
    if 2 * len(slow) > islands:
        return  # most are slow: slow is normal
    assert set(slow_islands(seconds)) == set(slow)


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [
        ([1, 1, 3], {2: 3.0}), ([1, 3], {1: 3.0}), ([1, 1, 1], {}), ([3, 1, 1, 3], {0: 3.0, 3: 3.0}), ([7], {}),
        ([1, 1.9, 1], {}), ([3, 3, 1], {}),
    ],
)  # fmt: skip
def test_what_takes_longer_than_the_median(seconds: list[float], expected: dict[int, float]) -> None:
    assert slower(np.array(seconds), FACTOR) == expected


@pytest.mark.parametrize(
    ("kind", "devices", "expected"),
    # The examples follow nccl-tests, doc/PERFORMANCE.md.
    [("all-reduce", 8, 1.75e9), ("all-gather", 8, 0.875e9), ("reduce-scatter", 4, 0.75e9), ("all-reduce", 2, 1e9)],
)
def test_bus_bandwidth_is_that_of_nccl_tests(kind: str, devices: int, expected: float) -> None:
    assert Measured(kind, "all", devices, 10**9, 1.0, {}).bus_bandwidth == expected  # type: ignore[arg-type]


def test_the_verdict_names_what_is_slow() -> None:
    assert verdict({}, 3) == "the collectives are measured, and no host or slice is slower than the others"
    assert "can be named where there are at least 3" in verdict({}, 2), "two were not compared"
    assert verdict({"process 1 on b": "its fastest exchange with another takes 9.0"}, 3) == (
        "process 1 on b is slow: its fastest exchange with another takes 9.0 times as long as that of the others"
    )


@pytest.mark.slow
def test_doctor_measures_the_devices_of_a_document(tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    path.write_text(yaml.safe_dump(run_document(tmp_path / "root", topology="1x2")))
    command = (sys.executable, "-m", "halcyon.commands.main", "doctor", "--collectives", "--json", str(path))
    done = subprocess.run(
        command, env=os.environ | {"JAX_PLATFORMS": "cpu"}, capture_output=True, text=True, check=False
    )
    assert done.returncode == ExitCode.DONE, done.stderr
    events = [json.loads(line) for line in done.stdout.splitlines()]
    assert {(one["over"], one["devices"]) for one in events if one["event"] == "collective"} == {
        ("within", 2), ("between", 2), ("all", 4),
    }  # fmt: skip
    assert events[-1]["event"] == "done"
    assert not (tmp_path / "root").exists(), "nothing is written"


@pytest.mark.slow
def test_the_host_with_a_slow_network_is_named(tmp_path: Path) -> None:
    if (reason := networks.why_not()) is not None:
        pytest.skip(reason)
    if shutil.which("tc") is None:
        pytest.skip("needs the command tc (package iproute2)")
    document = run_document(tmp_path / "root", slices=3, batchSize=9)
    document["spec"]["task"] = "measure"
    with networks.switched_hosts(3) as names:
        inside = [("ip", "netns", "exec", name) for name in names]
        limit = ("tc", "qdisc", "add", "dev", "cable", "root", "tbf", "rate", "100mbit", "burst", "64kb")
        done = subprocess.run([*inside[1], *limit, "latency", "400ms"], capture_output=True, text=True, check=False)
        if done.returncode:
            pytest.skip(f"this kernel has no tbf: {done.stderr.strip()}")
        group = start_processes(document, tmp_path / "run", address="10.213.8.1", inside=inside).ended()
    assert group.wait() == [ExitCode.DONE] * 3, group.leader.output_tail()
    message = group.leader.report()["message"]
    assert message.startswith("process 1 on "), message
    assert message.count("is slow") == 1, message
    measured = [event for event in group.leader.events if event.get("event") == "collective"]
    assert {(one["kind"], one["over"], one["devices"]) for one in measured} == {
        (kind, "between", 3) for kind in ("all-reduce", "all-gather", "reduce-scatter")
    }
    # 100 Mbit/s are 12.5 MB/s; a part of it may still lie in the buffers of the kernel.
    assert all(one["busBandwidth"] < 40e6 for one in measured if one["sizeBytes"] > 2**23)

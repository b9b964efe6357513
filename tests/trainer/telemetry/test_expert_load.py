"""The load of experts reaches the log, the status and Prometheus: the busiest and the least busy expert of each
layer.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from halcyon.step.in_step import reported_metrics
from halcyon.telemetry.metrics import exposition
from tests.trainer.telemetry.fakes import Scene, step_report

LOAD = np.array([[1.0, 1.0, 1.0, 1.0], [0.0, 0.5, 2.5, 1.0]], np.float32)


def test_an_array_is_reported_by_layer() -> None:
    found = reported_metrics({"expert_load": LOAD, "router_z_loss": np.float32(0.5)})
    assert found == {"expert_load_max": (1.0, 2.5), "expert_load_min": (1.0, 0.0), "router_z_loss": 0.5}


def test_the_load_of_experts_reaches_log_status_and_prometheus() -> None:
    scene = Scene()
    scene.start()
    metrics = reported_metrics(
        {"expert_load": LOAD, "load_balance_loss": np.float32(1.25), "router_z_loss": np.float32(0.5)}
    )
    scene.reporter.step_done(replace(step_report(1), metrics=metrics))
    progress = scene.reporter.report().progress
    assert (progress.expert_load_max, progress.load_balance_loss, progress.router_z_loss) == (2.5, 1.25, 0.5)
    (event,) = scene.named("step")
    assert (event["expertLoadMax"], event["expertLoadMin"], event["routerZLoss"]) == ([1.0, 2.5], [1.0, 0.0], 0.5)
    text = exposition(scene.reporter.observe())[0].decode()
    assert 'halcyon_trainer_expert_load_ratio{layer="1",of="max"} 2.5' in text
    assert 'halcyon_trainer_expert_load_ratio{layer="1",of="min"} 0.0' in text
    assert "halcyon_trainer_load_balance_loss 1.25" in text

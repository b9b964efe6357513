"""The metrics have names by Prometheus' rules, are bounded in number, and have correct values."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from halcyon.telemetry.metrics import METRICS, exposition
from halcyon.telemetry.reference import render
from halcyon.telemetry.times import STEP_SECONDS_BUCKETS
from tests.trainer.telemetry.fakes import FOUND, Scene, built, committed, step_report

PAGE = Path(__file__).parents[3] / "docs" / "reference" / "metrics.md"


def values(scene: Scene) -> dict[str, float]:
    """All samples by name and labels."""

    def samples() -> Iterator[tuple[str, float]]:
        for family in text_string_to_metric_families(exposition(scene.reporter.observe())[0].decode()):
            for sample in family.samples:
                labels = ",".join(f"{name}={value}" for name, value in sorted(sample.labels.items()))
                yield sample.name.removeprefix("halcyon_trainer_") + (f"{{{labels}}}" if labels else ""), sample.value

    return dict(samples())


def test_before_the_first_step_there_is_no_loss() -> None:
    found = values(Scene())
    assert found["step"] == 0
    assert found["planned_steps"] == 100
    assert found["stage{stage=starting}"] == 1
    assert found["healthy"] == 1
    assert found["idle_limit_seconds"] == 900
    assert (
        not {
            "loss_nats",
            "tokens_per_second",
            "mfu_ratio",
            "checkpoint_step",
            "evaluation_loss_nats",
            "resumed_step",
            "data_wait_ratio",
        }
        & found.keys()
    )
    assert not any(name.startswith("tokenized") for name in found)


def test_a_training_run_has_all_metrics() -> None:
    scene = Scene(flops_per_token=1e6, peak_flops_per_second=2 * 4096 * 1e6 / 0.4)
    scene.reporter.stage("tokenizing")
    scene.reporter.tokenized(built(10))
    scene.time.pass_(4)
    scene.reporter.tokenized(built(26, finished=True))
    scene.reporter.tokenized(built(3, source="code", finished=True))
    scene.start(resumed_step=40)
    scene.steps(41, 50)
    scene.evaluate(50, FOUND)
    scene.reporter.event("checkpointFailed", reason="disk full")
    scene.reporter.event("checkpoint", committed(50), blocked_seconds=0.25)
    scene.reporter.adds(checkpoint_save_seconds=3.5)
    scene.reporter.knows(save_interval_seconds=75.5)
    scene.reporter.knows(exported_step=40)
    scene.reporter.event("exportFailed", step=40, reason="disk full")
    scene.reporter.event("exported", step=40, path="file:///models/step-40", size_bytes=1, seconds=0.5)
    found = values(scene)
    expected = {
        "stage{stage=training}": 1,
        "stage{stage=starting}": 0,
        "step": 50,
        "resumed_step": 40,
        "tokens": 50 * 4096,
        "processed_steps_total": 10,
        "processed_tokens_total": 10 * 4096,
        "loss_nats": 2.5,
        "gradient_norm": 1.25,
        "learning_rate": 0.001,
        "tokens_per_second": 8192,
        "mfu_ratio": 0.4,
        "eta_seconds": 25,
        "evaluation_loss_nats": 1.5,
        "evaluation_bits_per_byte": FOUND.bits_per_byte,
        "evaluations_total": 1,
        "data_wait_seconds_total": 1.25,
        "data_wait_ratio": 0.25,
        "tokenized_documents_total{source=web}": 25,
        "tokenized_tokens_total{source=web}": 26_000,
        "tokenized_bytes_total{source=web}": 104_000,
        "tokenized_shards_total{source=web}": 1,
        "tokenized_tokens_total{source=code}": 3000,
        "checkpoint_step": 50,
        "checkpoint_size_bytes": 123_456,
        "checkpoints_total": 1,
        "checkpoint_save_seconds_total": 3.5,
        "checkpoint_blocked_seconds_total": 0.25,
        "save_interval_seconds": 75.5,
        "checkpoint_failures_total": 1,
        "exported_step": 40,
        "exports_total": 1,
        "export_failures_total": 1,
        "startup_seconds{part=imports}": 2,
        "startup_seconds{part=join}": 1,
        "startup_seconds{part=data}": 4,
        "startup_seconds{part=restore}": 2,
        "startup_seconds{part=compile}": 3,
        "step_seconds_count": 9,
        "step_seconds_sum": 4.5,
        "step_seconds_bucket{le=0.25}": 0,
        "step_seconds_bucket{le=0.5}": 9,
        "step_seconds_bucket{le=+Inf}": 9,
    }
    assert {name: found.get(name) for name in expected} == pytest.approx(expected)
    assert (
        found["last_step_timestamp_seconds"]
        == found["checkpoint_timestamp_seconds"]
        == pytest.approx(1_772_366_400 + 4 + 6 + 4.5)
    )


def test_a_diverged_loss_is_shown_as_such() -> None:
    scene = Scene()
    scene.start()
    scene.reporter.step_done(step_report(1, loss=math.nan))
    assert math.isnan(values(scene)["loss_nats"])


def test_a_loss_of_zero_is_exported() -> None:
    scene = Scene()
    scene.start()
    scene.reporter.step_done(step_report(1, loss=0.0))
    assert values(scene)["loss_nats"] == 0


def test_as_many_series_after_many_steps_as_after_few() -> None:
    scene = Scene(steps=10_000)
    scene.start()
    scene.steps(1, 3)
    few = values(scene).keys()
    scene.steps(4, 2000)
    assert values(scene).keys() == few


def test_names_follow_the_rules() -> None:
    names = [metric.name for metric in METRICS]
    assert len(names) == len(set(names))
    for metric in METRICS:
        assert metric.name.startswith("halcyon_trainer_")
        assert metric.name.endswith("_total") == (metric.kind == "counter"), metric.name
        assert metric.help.endswith("."), metric.name
        assert not {"step", "time", "path"} & set(metric.labels)
    assert list(STEP_SECONDS_BUCKETS) == sorted(STEP_SECONDS_BUCKETS)


def test_the_reference_page_is_up_to_date() -> None:
    assert PAGE.read_text(encoding="utf-8") == render(), (
        "run: python -m halcyon.telemetry.reference > docs/reference/metrics.md"
    )

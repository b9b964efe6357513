"""A configuration of Levanter becomes a run: each setting has its field or is named, and what cannot be trained is
refused in one sentence."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from halcyon_api.ends import ExitCode
from halcyon_api.reading import parse_run
from halcyon_cli.levanter.conversion import Conversion, convert, read, rows
from halcyon_cli.main import app

CPU = {"type": "cpu", "topology": "1x4"}
TRAINED: dict[str, Any] = {
    "data": {"train_urls": ["gs://bucket/owt_{1..8}.jsonl.gz"], "tokenizer": "gpt2"},
    "model": {"type": "gpt2", "hidden_dim": 64, "num_layers": 2, "num_heads": 4},
    "trainer": {"num_train_steps": 10, "train_batch_size": 8, "checkpointer": {"base_path": "gs://bucket/runs"}},
}
"""A configuration that trains."""


def with_settings(*changes: tuple[str, Any]) -> dict[str, Any]:
    found = yaml.safe_load(yaml.safe_dump(TRAINED))
    for path, value in changes:
        *above, last = path.split(".")
        node = found
        for part in above:
            node = node.setdefault(part, {})
        node[last] = value
    return found


def converted(*changes: tuple[str, Any]) -> Conversion:
    found = convert(with_settings(*changes), "Small_Run.v1", CPU, 4)
    parse_run(found.document)
    return found


def at(document: Any, path: str) -> Any:
    for part in path.split("."):
        document = document[int(part) if part.isdigit() else part]
    return document


EXPECTED: list[tuple[list[tuple[str, Any]], dict[str, Any]]] = [
    ([], {"metadata.name": "small-run-v1", "spec.model.family": "gpt2", "spec.trainer.sequenceLength": 1024}),
    ([], {"spec.optimizer.learningRate": 6e-4, "spec.optimizer.schedule.phases.warmup": 0.01}),
    ([], {"spec.data.sources.0.jsonl.paths": ["gs://bucket/owt_*.jsonl.gz"], "spec.data.order": {"sequential": {}}}),
    ([], {"spec.tokenizer.tokenizerJson.path": "hf://openai-community/gpt2"}),
    ([("trainer.id", "One")], {"metadata.name": "one", "spec.checkpoint.root": "gs://bucket/runs/one"}),
    ([("trainer.mp", "p=f32,c=bfloat16")], {"spec.trainer.precision": {"parameters": "float32", "compute": "bfloat16"}}),
    ([("trainer.mp", "bf16")], {"spec.trainer.precision": {"parameters": "bfloat16", "compute": "bfloat16"}}),
    ([("trainer.per_device_parallelism", 1)], {"spec.trainer.microbatches": 2}),
    ([("trainer.per_device_parallelism", 3)], {"spec.trainer.microbatches": "auto"}),
    (
        [("trainer.train_batch_size", -1), ("trainer.per_device_parallelism", 2)],
        {"spec.trainer.batchSize": 8, "spec.trainer.microbatches": 1},
    ),
    (
        [("trainer.train_batch_size", [{"start": 0, "value": 8}, {"start": 5, "value": 16}])],
        {"spec.trainer.batchSize": 8, "spec.trainer.batchSchedule": [{"fromStep": 5, "batchSize": 16}]},
    ),
    ([("trainer.model_axis_size", 2)], {"spec.mesh.ici.tensor": 2}),
    ([("trainer.parameter_axis_resources", {"embed": None})], {"spec.mesh.ici": {"fsdp": 1, "data": -1}}),
    ([("trainer.model_averaging", {"type": "ema", "beta": 0.9})], {"spec.average": {"ema": {"decay": 0.9}}}),
    ([("trainer.checkpointer.save_interval", "2h")], {"spec.checkpoint.save.everySeconds": 7200}),
    (
        [("trainer.checkpointer.keep", [{"every": 5, "until": 20}, {"every": 50}])],
        {"spec.checkpoint.permanent": [{"everySteps": 5, "untilStep": 20}, {"everySteps": 50}]},
    ),
    ([("trainer.wandb", {"project": "mine"})], {"spec.telemetry.trackers": {"wandb": {"project": "mine"}}}),
    ([("trainer.tracker", [{"type": "tensorboard", "logdir": "/logs"}])], {"spec.telemetry.trackers.tensorBoard": {"directory": "/logs"}}),
    ([("optimizer.lr_schedule", "inv"), ("optimizer.decay", 4)], {"spec.optimizer.schedule.phases.shape": "inverse"}),
    ([("optimizer.cycles", [2, 5])], {"spec.optimizer.schedule.phases.cycleEnds": [2, 5]}),
    ([("optimizer.cycle_length", 0.5)], {"spec.optimizer.schedule.phases.cycles": 2}),
    ([("optimizer", {"type": "sophia-h", "gamma": 0.01})], {"spec.optimizer.sophia": {"estimator": "hutchinson", "gamma": 0.01}}),
    ([("optimizer", {"type": "muon", "lr": 0.02, "adam_lr": 0.002})], {"spec.optimizer.learningRate": 0.02, "spec.optimizer.matrices.others.learningRate": 0.1}),
    ([("optimizer.skip_bad_steps", True)], {"spec.recovery.divergence.spike": {"windowSteps": 128, "sigmas": 6}}),
    ([("model.mlp_scale", 2)], {"spec.model.intermediateSize": 128}),
    ([("model.gradient_checkpointing", False)], {"spec.trainer.remat": "none"}),
    (
        [("model", {"type": "llama", "hidden_dim": 64, "num_heads": 4, "num_kv_heads": 2, "rope": {"type": "llama3"}})],
        {"spec.model.numKeyValueHeads": 2, "spec.model.ropeTheta": 500_000, "spec.model.ropeScaling.factor": 8},
    ),
    (
        [("model", {"type": "backpack", "num_senses": 4})],
        {"spec.model.family": "backpack", "spec.model.numSenses": 4, "spec.model.hiddenSize": 768},
    ),
    (
        [("model", {"type": "gpt2_hyena", "mlp_scale": 2, "hyena": {"hidden_dim": 32, "seq_len": 64, "filter_order": 8}})],
        {"spec.model.hiddenSize": 32, "spec.model.intermediateSize": 64, "spec.model.filterOrder": 8, "spec.trainer.sequenceLength": 64},
    ),
    (
        [("model", {"type": "whisper", "d_model": 96}), ("data", {"configs": {"l": {"id": "o/l", "audio_key": "a"}}})],
        {
            "spec.model": {"family": "whisper", "hiddenSize": 96, "numHiddenLayers": 4, "numAttentionHeads": 6, "intermediateSize": 1536, "encoderLayers": 4},
            "spec.data.sources.0.format": {"speech": {"audioField": "a"}},
            "spec.trainer.sequenceLength": 448,
        },
    ),
    (
        [("model", {"type": "llama", "hybrid_norm": True, "input_embedding_norm": True})],
        {"spec.model.hybridNorm": True, "spec.model.inputEmbeddingNorm": True},
    ),
    (
        [("data", {"configs": {"a_b": {"id": "o/a", "tags": ["t"]}, "c": {"id": "o/c"}}, "train_weights": {"a_b": 3, "c": 1}})],
        {"spec.data.sources.0": {"name": "a-b", "huggingFace": {"dataset": "o/a", "split": "train"}, "weight": 3}},
    ),
    (
        [("data", {"configs": {"a": {"id": "o/a"}}, "train_weights": [[0, {"a": 1}], [5, {"a": 2}]]})],
        {"spec.data.mixture.schedule": [{"fromStep": 5, "weights": [{"source": "a", "weight": 2}]}]},
    ),
    (
        [("data.validation_urls", ["gs://bucket/val.parquet"])],
        {"spec.data.sources.1.validation.fraction": 1, "spec.trainer.evaluation.everySteps": 1000},
    ),
    (
        [("data", {"configs": {"chat": {"id": "o/c", "format": {"type": "chat", "messages_field": "m"}}}})],
        {"spec.data.sources.0.format.chat.messagesField": "m", "spec.data.sources.0.layout": {"pack": {}}},
    ),
    ([("hf_save_path", "gs://bucket/hf"), ("hf_save_steps", 5)], {"spec.export": {"root": "gs://bucket/hf", "everySteps": 5}}),
    ([("initialize_from_hf", "o/m")], {"spec.from.huggingFace.path": "hf://o/m", "spec.model.hiddenSize": 64}),
    ([("initialize_from_hf", "o/m"), ("lora.r", 4)], {"spec.adapter.lora": {"rank": 4, "alpha": 8}}),
]  # fmt: skip
"""Changes of the configuration, and what the run then has."""


@pytest.mark.parametrize(("changes", "expected"), EXPECTED)
def test_a_setting_becomes_its_field(changes: list[tuple[str, Any]], expected: dict[str, Any]) -> None:
    found = converted(*changes)
    assert {path: at(found.document, path) for path in expected} == expected
    assert not found.notes


VALUES: dict[str, Any] = {
    "trainer.mp": "bf16",
    "trainer.quantization": {"int8": True},
    "trainer.model_averaging": {"type": "ema_decay_sqrt"},
    "trainer.parameter_axis_resources": {"embed": None},
    "trainer.tensor_parallel_axes": ["heads"],
    "trainer.fsdp_axis": "mlp",
    "trainer.checkpointer.base_path": "gs://bucket/other",
    "trainer.checkpointer.append_run_id_to_base_path": False,
    "trainer.checkpointer.keep": [{"every": 5}],
    "trainer.tracker": {"type": "wandb"},
    "trainer.wandb": {"project": "mine"},
    "trainer.watch": {"interval": 5},
    "trainer.crash_on_nan": False,
    "trainer.crash_on_inf": False,
    "data.train_weights": [[0, {"train": 1}], [5, {"train": 2}]],
    "mixture_weights": {"train": 2},
    "data.stop_strategy": "first_exhausted",
    "stop_strategy": "all_exhausted",
    "data.tokenizer": "o/t",
    "data.cache_dir": "gs://bucket/cache",
    "chat_train_urls": ["gs://bucket/chat.jsonl"],
    "dataset_type": "chat_jsonl",
    "hf_save_path": "gs://bucket/hf",
    "peft_save_path": "gs://bucket/hf",
    "merged_hf_save_path": "gs://bucket/hf",
    "initialize_from_hf": "o/m",
    "lora.target_modules": ["q_proj"],
    "model.rope": {"type": "llama3"},
    "optimizer.lr_schedule": "inv",
}
"""Values of settings that cannot be 3."""


SECONDARY = frozenset(
    [
        "input_role",
        "output_role",
        "messages_field",
        "model_name_or_path",
        "model.reference_checkpoint",
        "hf_save_steps",
        "hf_save_dtype",
        "tokenizer",
        "model.tokenizer",
        "trainer.profiler_start_step",
        "trainer.profiler_num_steps",
        "trainer.profiler_perfetto_link",
        "trainer.tensor_parallel_axes",
    ]
)
"""Settings that change nothing without another one, in Levanter too."""


def test_no_setting_is_silent() -> None:
    """Each setting of the table, with a value that is no default, changes the run or is named."""
    plain = converted()
    for row in (row for group in rows().values() for row in group):
        for setting in row.get("set", ()):
            if setting in ("data.configs", "model", "optimizer.type", "use_hf_model_config", "supervised_data"):
                continue  # the tests above
            found = convert(with_settings((setting, VALUES.get(setting, 3))), "Small_Run.v1", CPU, 4)
            assert found.notes or found.document != plain.document or setting in SECONDARY, setting


def test_an_unknown_setting_is_named() -> None:
    found = converted(("trainer.flux", 1), ("data.configs", {"a": {"id": "o/a", "odd": 2}}))
    assert found.notes == (
        "data.configs.a.odd: unknown; it is not in the table",
        "data.train_urls: unknown; it is not in the table",
        "trainer.flux: unknown; it is not in the table",
    )


REFUSED = {
    "model.type: mpt is not here": ("model", {"type": "mpt"}),
    "optimizer.type: rmsprop is not here": ("optimizer", {"type": "rmsprop"}),
    "optimizer.lr_schedule: odd is not here": ("optimizer.lr_schedule", "odd"),
    "trainer.mp: f16 is not here": ("trainer.mp", "f16"),
    "a setting of data has another form": ("data.configs", 3),
}


@pytest.mark.parametrize("sentence", REFUSED)
def test_what_cannot_be_trained_is_refused(sentence: str, tmp_path: Path) -> None:
    path = tmp_path / "levanter.yaml"
    path.write_text(yaml.safe_dump(with_settings(REFUSED[sentence])))
    result = CliRunner().invoke(app, ["import-config", str(path)])
    assert (result.exit_code, result.stdout) == (ExitCode.BAD_CONFIGURATION, "")
    assert f"{path}: {sentence}" in result.stderr


def test_the_command_prints_a_run(tmp_path: Path) -> None:
    """With a file that it includes, and numbers as Levanter writes them."""
    (tmp_path / "parts").mkdir()
    (tmp_path / "parts" / "data.yaml").write_text(yaml.safe_dump(TRAINED["data"]))
    lines = yaml.safe_dump({name: TRAINED[name] for name in ("model", "trainer")})
    path = tmp_path / "small.yaml"
    path.write_text(f"data: !include parts/data.yaml\noptimizer: {{learning_rate: 6E-4, nesterov: true}}\n{lines}")
    result = CliRunner().invoke(app, ["import-config", str(path), "--accelerator", "h100:1x8"])
    assert result.exit_code == 0, result.stderr
    assert result.stdout.startswith("# optimizer.nesterov: not settings of `spec.optimizer.adamw`\napiVersion:")
    run = parse_run(yaml.safe_load(result.stdout))
    assert (run.spec.accelerator.type, run.spec.optimizer.learning_rate) == ("h100", 6e-4)


def test_files_that_include_each_other_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "circle.yaml"
    path.write_text("data: !include circle.yaml\n")
    with pytest.raises(ValueError, match="take the circle out"):
        read(path)

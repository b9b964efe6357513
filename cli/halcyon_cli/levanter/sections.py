"""The settings of Levanter that have another form here. Pure.

Each function takes its settings, fills its part of the spec, and yields a note for what it leaves out.
"""

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, cast

from pydantic.alias_generators import to_camel

from halcyon_cli.levanter.settings import Settings, Spec, put


@dataclass(frozen=True)
class Given:
    """What is known beside the settings.

    Attributes:
        tables: ``tables.yaml``.
        devices: Devices of the accelerator.
        name: Name of the run.
    """

    tables: Mapping[str, Mapping[str, Any]]
    devices: int
    name: str

    def row(self, table: str, setting: str, name: Any) -> Any:
        """The row of a table with this name; `setting` has it.

        Raises:
            ValueError: There is none.
        """
        if name not in self.tables[table]:
            raise ValueError(f"{setting}: {name} is not here; there are {', '.join(self.tables[table])}")
        return self.tables[table][name]


Section = Callable[[Settings, Spec, Given], Iterator[str]]

_BASE = "NousResearch/Llama-2-7b-hf"
"""The model of Levanter that a configuration begins from when it names none."""
_NO_ADDRESS = "is no whole address; give one, such as gs://BUCKET/PATH or /PATH"


def _model(settings: Settings, spec: Spec, given: Given) -> Iterator[str]:
    """The family with Levanter's defaults, or the config.json that the weights come from."""
    base = settings.take("initialize_from_hf")
    named = settings.first("model_name_or_path", "model.reference_checkpoint")
    of_config = settings.take("use_hf_model_config") or not settings.has("model")
    if base:
        folder = _hub(base if isinstance(base, str) else named or _BASE)
        put(spec, "from.huggingFace.path", folder)
        if of_config:
            spec["model"] = {"family": "huggingFace", "configFile": folder}
            yield from (f"{path}: the model is that of {folder}" for path in settings.drop("model"))
            return
    row = given.row("models", "model.type", settings.take("model.type", "llama"))
    model: Spec = {"family": row["family"], **row["defaults"]}
    for setting, fields in row["own"].items():
        value = settings.take(f"model.{setting}")
        for field in fields:
            put(model, field, value)
    if (factor := settings.take("model.mlp_scale")) is not None:
        model["intermediateSize"] = factor * settings.peek("model.hidden_dim", model["hiddenSize"])
    if (rope := settings.take("model.rope")) is not None:
        kind = rope.pop("type", "default")
        values = {**given.row("ropes", "model.rope.type", kind), **rope}
        model["ropeTheta"] = values.pop("theta")
        kind = "linear" if kind == "default" and values.get("factor", 1) != 1 else kind
        if kind != "default":
            model["ropeScaling"] = {"ropeType": kind, **{to_camel(name): one for name, one in values.items()}}
    put(spec, "model", model)
    put(spec, "trainer.sequenceLength", row["seq_len"])


def _hub(name: str) -> str:
    """The address of a model: that of the hub, unless it is a folder or an address already."""
    if "://" in name or name.startswith((".", "/")):
        return name
    return f"hf://{name if '/' in name else f'openai-community/{name}'}"


_COMPRESSED = re.compile(r"\.(gz|zst|bz2|xz)$")
_BRACES = re.compile(r"\{[^{}]*\}")
_ORDERS: dict[Any, Spec] = {True: {"random": {}}, False: {"sequential": {}}}
_OF_SOURCE = ("id", "name", "train_urls", "validation_urls", "train_split", "validation_split", "format", "tags")
_OF_SOURCE += ("text_key", "splits", "stream")


def _data(settings: Settings, spec: Spec, given: Given) -> Iterator[str]:
    """Tokenizer, sources with their weights, order and cache."""
    tokenizer = settings.first("data.tokenizer", "tokenizer", "model.tokenizer", default="gpt2")
    if tokenizer == "passthrough":
        yield "data.tokenizer: passthrough has ids already; give spec.data.sources[0].format.prebuilt"
    else:
        put(spec, "tokenizer.tokenizerJson.path", _hub(tokenizer))
    form = {"format": {"type": "chat", "messages_field": settings.take("messages_field")}}
    form = form if settings.take("dataset_type") else {}
    settings.first("input_role", "output_role")
    urls, configs = settings.take("chat_train_urls"), settings.first("data.configs", "supervised_data", default={})
    if urls is not None:
        configs = {"train": {"train_urls": urls}}
    elif not configs or not all(isinstance(one, Mapping) for one in configs.values()):  # one source without a name
        configs = {"train": configs or {name: settings.take(f"data.{name}") for name in _OF_SOURCE}}
    weights = settings.first("data.train_weights", "mixture_weights", default={})
    weights = weights if isinstance(weights, list) else [(0, weights)]
    first = cast("dict[str, float]", weights[0][1])
    hears = spec.get("model", {}).get("family") == "whisper"
    sources: list[Spec] = []
    tags: dict[str, list[str]] = {}
    for name, config in cast("dict[str, Spec]", configs).items():
        config = form | {setting: value for setting, value in config.items() if value is not None}
        tagged = cast("list[str]", config.pop("tags", ()))
        audio = config.pop("audio_key", None) if hears else None
        made, notes = _sources(name, Settings(config))
        yield from notes
        for source in made if hears else ():
            text = source.pop("format", {}).get("text", {}).get("field")
            put(source, "format.speech", {})
            put(source, "format.speech.textField", text)
            put(source, "format.speech.audioField", audio)
        for source in made:
            if first:
                source["weight"] = 0 if "validation" in source else first.get(name, 0)
            for tag in tagged:
                tags.setdefault(dns_name(tag), []).append(source["name"])
        sources += made
    put(spec, "data.sources", sources or None)
    if any("validation" in source for source in sources):
        put(spec, "data.validation.fraction", 0)
        put(spec, "trainer.evaluation.everySteps", 1000)
    names = [{"name": tag, "sources": of} for tag, of in tags.items()]
    put(spec, "trainer.evaluation.bySource.tags", names or None)
    later = [
        {"fromStep": step, "weights": [{"source": dns_name(name), "weight": one} for name, one in entry.items()]}
        for step, entry in cast("list[tuple[int, dict[str, float]]]", weights)[1:]
    ]
    put(spec, "data.mixture.schedule", later or None)
    shuffle = settings.take("data.shuffle", False)
    if not hears:  # each row is a text of its own, in random order
        put(spec, "data.order", _ORDERS.get(shuffle, {"windows": {"sequences": shuffle}}))
    yield from _place(settings, spec, "data.cache_dir", "data.cache.root")


def _place(settings: Settings, spec: Spec, setting: str, field: str, below: str = "") -> Iterator[str]:
    place = settings.take(setting)
    if place is not None and ("://" in place or place.startswith("/")):
        put(spec, field, f"{place.rstrip('/')}/{below}".rstrip("/"))
    elif place is not None:
        yield f"{setting}: {place} {_NO_ADDRESS}"


def _sources(name: str, config: Settings) -> tuple[list[Spec], list[str]]:
    """The source for training and the one for validation, as far as there are both; and notes."""
    form, notes = _format(config)
    dataset, of = config.take("id"), config.take("name")
    for unused in ("cache_dir", "type", "stream", "streaming", "splits", "sampling_rate", "plaintext"):
        config.take(unused)
    sources: list[Spec] = []
    for part in ("train", "validation"):
        urls = config.take(f"{part}_urls")
        split = config.take(f"{part}_split", "train" if part == "train" and dataset else None)
        made: Spec = {"name": dns_name(name if part == "train" else f"{name}-{part}")}
        if dataset and split is not None:
            made["huggingFace"] = {"dataset": dataset, "split": split} | ({"config": of} if of else {})
        elif urls:
            paths = [_BRACES.sub("*", url) for url in ([urls] if isinstance(urls, str) else urls)]
            end = _COMPRESSED.sub("", paths[0])
            kind = "parquet" if end.endswith(".parquet") else "text" if end.endswith((".txt", ".md")) else "jsonl"
            made[kind] = {"paths": paths}
        else:
            continue
        sources.append(made | form | ({} if part == "train" else {"validation": {"fraction": 1}}))
    return sources, notes + [f"data.configs.{name}.{path}: unknown; it is not in the table" for path in config.left()]


def _format(config: Settings) -> tuple[Spec, list[str]]:
    """Format and layout of a source; and notes."""
    text, found = config.first("text_key", "format.text_key"), Spec()
    kind = config.take("format.type", "text")
    if kind == "text":
        put(found, "format.text.field", text)
    elif kind == "chat":
        found["format"] = {"chat": {}}
        put(found, "format.chat.messagesField", config.take("format.messages_field"))
        put(found, "format.chat.template", config.take("format.chat_template"))
        put(found, "format.chat.lossOn", None if config.take("format.mask_user_turns", True) else "all")
        put(found, "layout", {"pack": {}} if config.take("format.pack", True) else None)
    else:
        dropped = config.drop("format") or [f"format.{kind}"]
        return found, [f"{path}: not here: write each row as a conversation of two messages" for path in dropped]
    return found, []


def _optimizer(settings: Settings, spec: Spec, given: Given) -> Iterator[str]:
    """The rule with its own settings, and the shape of the schedule."""
    row = given.row("optimizers", "optimizer.type", settings.take("optimizer.type", "adam"))
    options = {name: settings.take(f"optimizer.{name}") for name in row.get("settings", ())}
    found = {name: value for name, value in options.items() if value is not None}
    put(spec, f"optimizer.{row['rule']}", found | row.get("has", {}))
    if (others := settings.take("optimizer.adam_lr")) is not None:
        put(spec, "optimizer.matrices.others.learningRate", others / settings.peek("optimizer.lr", 0.02))
    given_shape = settings.take("optimizer.lr_schedule", "cosine")
    shape = given_shape if isinstance(given_shape, Mapping) else {"type": given_shape}
    row = given.row("shapes", "optimizer.lr_schedule", shape.get("type"))
    phases: Spec = {"shape": row["shape"]}
    for theirs, ours in row.get("settings", {}).items():
        put(phases, ours, shape.get(theirs))
    cycles, length = settings.take("optimizer.cycles"), settings.take("optimizer.cycle_length")
    put(phases, "cycleEnds" if isinstance(cycles, list) else "cycles", cycles)
    if isinstance(length, list):
        phases["cycleLengths"] = length
    elif length is not None:
        steps = settings.peek("trainer.num_train_steps", 400_000)
        phases["cycles"] = max(round(steps / (length if length > 1 else length * steps)), 1)
    put(spec, "optimizer.schedule.phases", phases)
    if skips := settings.take("optimizer.skip_bad_steps"):
        wanted = skips if isinstance(skips, Mapping) else {} if skips is True else {"rolling_interval_length": skips}
        window, sigmas = wanted.get("rolling_interval_length", 128), wanted.get("sigma_factor", 6)
        put(spec, "recovery.divergence.spike", {"windowSteps": window, "sigmas": sigmas})
    yield from ()


def _trainer(settings: Settings, spec: Spec, given: Given) -> Iterator[str]:
    """Batch, precision, average, profile and trackers."""
    per_device = settings.first("trainer.per_device_parallelism", "trainer.per_device_train_parallelism", default=-1)
    size = settings.take("trainer.train_batch_size", 512)
    if isinstance(size, list):
        first, *later = size
        put(spec, "trainer.batchSchedule", [{"fromStep": one["start"], "batchSize": one["value"]} for one in later])
        size = first["value"]
    elif size == -1:
        size = max(per_device, 1) * given.devices
    put(spec, "trainer.batchSize", size)
    if per_device > 0:
        parts, rest = divmod(size, given.devices * per_device)
        put(spec, "trainer.microbatches", parts if parts and not rest else "auto")
    policy = str(settings.take("trainer.mp", "f32"))
    types = dict(one.split("=") for one in policy.split(",")) if "=" in policy else {"p": policy, "c": policy}
    for field in ("parameters", "compute"):
        wanted = types.get(field[0], types.get(field.replace("parameters", "params"), "f32"))
        put(spec, f"trainer.precision.{field}", given.row("precisions", "trainer.mp", wanted))
    narrow = settings.take("trainer.quantization", {})
    put(spec, "trainer.precision.products", "float8" if narrow.get("fp8") else "int8" if narrow.get("int8") else None)
    if average := settings.take("trainer.model_averaging"):
        found = {"decay": average.get("beta", 0.999)}
        if average.get("type") == "ema_decay_sqrt":
            found |= {"fromStep": average.get("switch_step", 100_000), "steps": average.get("decay_steps", 100_000)}
        put(spec, f"average.{'emaSqrt' if 'steps' in found else 'ema'}", found)
    for name in ("crash_on_nan", "crash_on_inf"):
        if not settings.take(f"trainer.{name}", True):
            yield f"trainer.{name}: a run never goes on with such numbers; spec.recovery.divergence.nonFinite decides"
    start, steps = settings.take("trainer.profiler_start_step", 5), settings.take("trainer.profiler_num_steps", 100)
    settings.take("trainer.profiler_perfetto_link")
    if settings.take("trainer.profiler"):
        put(spec, "telemetry.profile", {"atStep": start, "steps": steps})
    trackers, old = settings.take("trainer.tracker", []), settings.take("trainer.wandb")
    trackers = trackers if isinstance(trackers, list) else [trackers]
    for one in [*trackers, *([{"type": "wandb", **old}] if old else [])]:
        kind = one.pop("type", "wandb")
        if kind != "noop":
            member, field, name = given.row("trackers", "trainer.tracker", kind)
            value = str(one.pop(name, "levanter"))
            if field == "directory" and not value.startswith("/"):
                yield f"trainer.tracker: {name} {value} is no path from /; give one"
            else:
                put(spec, f"telemetry.trackers.{member}", {field: value})
        if one:
            yield f"trainer.tracker: not settings: {', '.join(one)}; use the tracker's variables (WANDB_ENTITY, …)"


_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86_400}


def _checkpoints(settings: Settings, spec: Spec, given: Given) -> Iterator[str]:
    """Where checkpoints and exports go, and when; the adapter."""
    below = given.name if settings.take("trainer.checkpointer.append_run_id_to_base_path", True) else ""
    yield from _place(settings, spec, "trainer.checkpointer.base_path", "checkpoint.root", below)
    interval = str(settings.take("trainer.checkpointer.save_interval", "15m"))
    found = re.fullmatch(r"(\d+(?:\.\d+)?)([smhd]?)", interval)
    if found is None:
        raise ValueError(f"trainer.checkpointer.save_interval: {interval} is no time; give one such as 15m")
    seconds = round(float(found[1]) * _SECONDS[found[2] or "s"])
    put(spec, "checkpoint.save", {"everySteps": 0, "everySeconds": seconds})
    keep = settings.take("trainer.checkpointer.keep", [{"every": 10_000}])
    names = {"every": "everySteps", "until": "untilStep"}
    put(spec, "checkpoint.permanent", [{names[name]: one[name] for name in one if one[name]} for one in keep])
    adapts = any(map(settings.has, ("lora", "peft_save_path", "merged_hf_save_path")))
    steps, dtype = settings.take("hf_save_steps"), settings.take("hf_save_dtype")
    for place in ("merged_hf_save_path", "peft_save_path", "hf_save_path"):
        yield from _place(settings, spec, place, "export.root")
    if "export" in spec:
        put(spec, "export.everySteps", steps or 10_000)
        put(spec, "export.dtype", dtype)
    if adapts:
        put(spec, "adapter.lora", {"rank": 8, "alpha": 8})
        targets = settings.take("lora.target_modules", [])
        targets = [targets] if isinstance(targets, str) else [f"*{one}" for one in targets]
        put(spec, "adapter.lora.targets", targets or None)


def _mesh(settings: Settings, spec: Spec, given: Given) -> Iterator[str]:
    """Parameters that are split over no axis; the rows copy the sizes of axes."""
    if settings.take("trainer.fsdp_axis", "embed") not in ("embed", ["embed"]):
        yield "trainer.fsdp_axis: parameters are split along the axis that divides best, see docs/design/parallelism.md"
    of_parameters = settings.take("trainer.parameter_axis_resources", {})
    if "embed" in of_parameters and not of_parameters["embed"]:
        put(spec, "mesh.ici", {"fsdp": 1, "data": -1})
    split = settings.take("trainer.tensor_parallel_axes", ())
    if split and set(split) < {"mlp", "heads"} and settings.peek("trainer.model_axis_size", 1) > 1:
        yield f"trainer.tensor_parallel_axes: spec.mesh.ici.tensor splits MLP, heads and vocabulary, not only {split}"


def dns_name(text: str) -> str:
    """A name that Kubernetes takes: lower-case letters, digits and hyphens, at most 40."""
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")[:40].strip("-") or "run"


ALL: tuple[Section, ...] = (_model, _data, _optimizer, _trainer, _checkpoints, _mesh)

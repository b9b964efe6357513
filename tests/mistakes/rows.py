"""The mistakes. Most are in the document; some are in a command, a file or a checkpoint root."""

from __future__ import annotations

import json
from typing import Any

from halcyon_api.ends import ExitCode
from tests.families import SMALL_FAMILIES, llama
from tests.mistakes.row import FOLDER, Mistake
from tests.trainer.support import images
from tests.trainer.support.speech import WHISPER

BAD = ExitCode.BAD_CONFIGURATION
VALIDATE, TRAIN, SWEEP = ("validate", "run.yaml"), ("train", "run.yaml"), ("sweep", "run.yaml", "sweep.yaml")
STATS = ("data", "stats", "run.yaml")
_OPTIMIZER = "spec.optimizer"
_LABELLED = [{"name": "mails", "jsonl": {"paths": ["/a"]}, "format": {"text": {"labelField": "label"}}}]
_QUERIES = [{"name": "queries", "jsonl": {"paths": ["/a"]}, "format": {"pair": {}}}]
_PAIRS = [{"name": "pairs", "jsonl": {"paths": ["/a"]}, "format": {"preference": {}}}]
_SPEECH = [{"name": "clips", "jsonl": {"paths": ["rows.jsonl"]}, "format": {"speech": {}}}]


def _in_document(words: str, **changes: Any) -> Mistake:
    """A mistake in the run's document. In the names of `changes`, ``__`` stands for a dot."""
    return Mistake(words, VALIDATE, BAD, {path.replace("__", "."): value for path, value in changes.items()})


FILES = (
    Mistake("a document that is not there", ("validate", "absent.yaml"), BAD),
    Mistake("a directory in place of a document", ("validate", "notes"), BAD),
    Mistake("an empty document", VALIDATE, BAD, text="# to be written\n"),
    Mistake("a tab in the indentation", VALIDATE, BAD, text="spec:\n\ttrainer: {}\n"),
    Mistake("a bracket that is never closed", VALIDATE, BAD, text="spec: {trainer: [\n"),
    Mistake("a file that is not UTF-8", VALIDATE, BAD, text=b"kind: TrainingRun # caf\xe9\n"),
    Mistake("a key that is given twice", VALIDATE, BAD, text="kind: TrainingRun\nspec: {}\nkind: TrainingRun\n"),
    Mistake("two documents in a file", VALIDATE, BAD, text="kind: TrainingRun\n---\nkind: TrainingRun\n"),
    Mistake("a number that is NaN", VALIDATE, BAD, text="spec:\n  optimizer: {learningRate: .nan, adamw: {}}\n"),
    Mistake("a text in place of a document", VALIDATE, BAD, text="just words\n"),
    Mistake("a file of another kind", VALIDATE, BAD, {"kind": "Deployment"}),
    Mistake("defaults in place of a run", VALIDATE, BAD, {"kind": "TrainingRunDefaults"}),
    Mistake("another version of the API", VALIDATE, BAD, {"apiVersion": "halcyon.dev/v1"}),
    Mistake("defaults that are not there", (*VALIDATE, "--defaults", "absent.yaml"), BAD),
)

FIELDS = (
    _in_document("a misspelt section", spec__modle={}),
    _in_document("a name in snake_case", spec__trainer__batch_size=4),
    _in_document("a field name of another trainer", spec__optimizer={"lr": 0.001, "adamw": {}}),
    _in_document("a field in the wrong section", spec__steps=10),
    _in_document("a field one level too high", spec__checkpoint__everySteps=5),
    _in_document("an unknown field", spec__gpu=1),
    _in_document(
        "a misspelt field that is required", spec__data__sources=[{"name": "notes", "text": {"path": "/notes"}}]
    ),
    _in_document("a required field that is missing", spec__trainer__steps=...),
    _in_document("a number in quotes", spec__trainer__steps="10"),
    _in_document("no steps", spec__trainer__steps=0),
    _in_document("a fraction of a step", spec__trainer__steps=1.5),
    _in_document("a word in place of a section", spec__trainer__precision="bfloat16"),
    _in_document("a type of numbers that does not exist", spec__trainer__precision={"compute": "fp16"}),
    _in_document("products of 8 bits on a processor", spec__trainer__precision={"products": "float8"}),
    _in_document("a list without dashes", spec__data__sources={"name": "notes", "text": {"paths": ["/notes"]}}),
    _in_document("a number as a name", metadata__name=7),
    _in_document("a name with a dot", metadata__name="notes.v2"),
    _in_document("a name of 41 characters", metadata__name="n" * 41),
    _in_document("the family as a key", spec__model={"llama": {"hiddenSize": 64}}),
    _in_document("a family that does not exist", spec__model__family="lama"),
    _in_document("a field of another family", spec__model__kvLoraRank=64),
    _in_document("a learning rate of 0", spec__optimizer={"learningRate": 0, "adamw": {}}),
    _in_document("a sample of text without a prompt", spec__telemetry={"sample": {"everySteps": 50}}),
    _in_document("masked tokens for a model that reads in one direction", spec__objective={"maskedToken": {}}),
    _in_document("labels of texts for a model without labels", spec__data__sources=_LABELLED),
    _in_document(
        "a reward model without its label", spec__objective={"preference": {"reward": {}}}, spec__data__sources=_PAIRS
    ),
    _in_document("queries with texts for a model that writes", spec__data__sources=_QUERIES),
    _in_document(
        "vectors of a decoder's first token",
        spec__objective={"contrastive": {"pooling": "cls"}},
        spec__data__sources=_QUERIES,
    ),
    _in_document("a model with labels that writes texts", spec__model__labels=["spam", "ham"]),
    _in_document(
        "answers that are sampled ahead, and a return past their batches",
        spec__objective={"policy": {"reward": "gsm8k", "groupSize": 2, "maxTokens": 8, "delaySteps": 2}},
        spec__data__sources=[{"name": "asked", "jsonl": {"paths": ["rows.jsonl"]}, "format": {"prompt": {}}}],
        spec__recovery__divergence={"nonFinite": "rollback"},
    ),
    _in_document(
        "a longest ratio for a loss that clips it",
        spec__objective={"policy": {"reward": "gsm8k", "groupSize": 2, "maxTokens": 8, "truncation": 2}},
        spec__data__sources=[{"name": "asked", "jsonl": {"paths": ["rows.jsonl"]}, "format": {"prompt": {}}}],
    ),
    _in_document("an adapter of weights that are not there", spec__adapter={"lora": {"rank": 4, "base": "nf4"}}),
    _in_document("a code of weights that does not exist", spec__adapter={"lora": {"rank": 4, "base": "int4"}}),
    _in_document("a rate of dropout of 1", spec__trainer__dropout={"residual": 1}),
    _in_document("frames that are dropped from texts", spec__trainer__dropout={"frames": 0.1}),
    _in_document("an evaluation of nothing", spec__task="evaluate"),
    _in_document("a replay of no checkpoint", spec__task="replay"),
    _in_document("a run that begins with itself", spec__from={"run": "notes", "root": f"file://{FOLDER}/other"}),
)

COMBINATIONS = (
    _in_document("hardware that does not exist", spec__accelerator={"type": "h100-megs"}),
    _in_document("a topology that does not exist", spec__accelerator={"type": "v4", "topology": "4x4"}),
    _in_document("heads that do not divide the width", spec__model__numAttentionHeads=5),
    _in_document("an encoder that predicts the next token", spec__model=SMALL_FAMILIES["modernBert"]),
    _in_document("a model of speech without sounds", spec__model=WHISPER),
    _in_document("sounds for a model of text", spec__data__sources=_SPEECH),
    _in_document(
        "further tokens of a model that cannot predict them",
        spec__model={**SMALL_FAMILIES["hyena"], "numNextnPredictLayers": 1},
    ),
    _in_document("more microbatches than the batch fills", spec__trainer__microbatches=3),
    _in_document("a mesh for other devices", spec__mesh={"ici": {"fsdp": 3}}),
    _in_document(
        "a warm-up longer than the run", **{_OPTIMIZER: {"schedule": {"cosine": {"warmupSteps": 500}}, "adamw": {}}}
    ),
    _in_document(
        "a decay longer than the run", **{_OPTIMIZER: {"schedule": {"wsd": {"decaySteps": 500}}, "adamw": {}}}
    ),
    _in_document(
        "sequence lengths that do not divide one another",
        spec__trainer__batchSchedule=[{"fromStep": 5, "sequenceLength": 24}],
    ),
    _in_document(
        "an accelerator only to tokenize", spec__task="data", spec__accelerator={"type": "v5e", "topology": "2x2"}
    ),
    _in_document("a model larger than this machine", spec__model__hiddenSize=2**20),
    _in_document(
        "a batch larger than this machine", spec__trainer__batchSize=2**24, spec__trainer__sequenceLength=65_536
    ),
    _in_document(
        "a model larger than the accelerator",
        spec__accelerator={"type": "v5e", "topology": "1x1"},
        spec__model=llama(32, 4096, 11008, 32),
        spec__trainer__batchSize=8,
    ),
)

PLACES = (
    _in_document("a root with two slashes", spec__checkpoint__root="file://runs/notes"),
    _in_document("a root with .. in its path", spec__checkpoint__root="file:///runs/../notes"),
    _in_document("a bucket without a path", spec__checkpoint__root="s3://bucket"),
    _in_document("a root of a kind that does not exist", spec__checkpoint__root="ftp://server/notes"),
    _in_document("no root", spec__checkpoint=...),
    _in_document("an endpoint beside a directory", spec__checkpoint__endpoint="http://store:7070"),
    _in_document("files that are not there", spec__data__sources=[{"name": "notes", "text": {"paths": ["~/absent"]}}]),
    _in_document(
        "a glob that matches nothing", spec__data__sources=[{"name": "notes", "text": {"paths": ["*.absent"]}}]
    ),
    _in_document("a tokenizer that is not there", spec__tokenizer={"tokenizerJson": {"path": f"{FOLDER}/absent.json"}}),
)


def _data(
    words: str,
    name: str,
    kind: str,
    path: str,
    text: str | bytes | None = None,
    *,
    file: str = "",
    command: str = "build",
    **source: Any,
) -> Mistake:
    """A mistake in the only source of data: `text` is that of its file."""
    sources = [{"name": name, kind: {"paths": [path]}, **source}]
    files = {} if text is None else {file or path: text}
    return Mistake(words, ("data", command, "run.yaml"), BAD, {"spec.data.sources": sources}, files=files)


def _sounds(words: str, audio: str) -> Mistake:
    """A mistake in the only sound that a model of speech trains on."""
    changes = {"spec.model": WHISPER, "spec.data.sources": _SPEECH}
    files = {"rows.jsonl": json.dumps({"audio": audio, "text": "one"}) + "\n", "empty.wav": b"RIFF\0\0\0\0WAVE"}
    return Mistake(words, ("data", "build", "run.yaml"), BAD, changes, files=files)


def _images(words: str, image: str, kind: str = "image") -> Mistake:
    """A mistake in the only image that a model trains on."""
    seen = {"role": "user", "content": [{"type": kind, kind: image}]}
    messages = [seen, {"role": "assistant", "content": "a cat"}]
    form = {"chat": {"messagesField": "messages", "template": images.TEMPLATE}}
    changes: dict[str, Any] = {
        "spec.model": images.sections(None)["model"],
        "spec.tokenizer": {"tokenizerJson": {"path": "tokenizer.json"}},
        "spec.data.sources": [{"name": "seen", "jsonl": {"paths": ["rows.jsonl"]}, "format": form}],
    }
    files = {"rows.jsonl": json.dumps({"messages": messages}) + "\n", "tokenizer.json": images.TOKENIZER.content}
    return Mistake(words, ("data", "build", "run.yaml"), BAD, changes, files=files)


DATA = (
    _data("files in a store of a kind that does not exist", "notes", "text", "http://server/notes.txt"),
    _data("nothing to train on", "empty", "text", "empty"),
    _data(
        "a field that the rows lack",
        "rows",
        "jsonl",
        "rows.jsonl",
        '{"text": "a"}\n',
        format={"text": {"field": "body"}},
    ),
    _data("rows that are not JSON", "rows", "jsonl", "rows.jsonl", "not JSON\n"),
    _data(
        "conversations of an unknown form",
        "rows",
        "jsonl",
        "rows.jsonl",
        '{"asked": "6*7?", "said": "42"}\n',
        format={"chat": {}},
    ),
    _sounds("a sound that is not there", "absent.wav"),
    _sounds("a text in place of a sound", "rows.jsonl"),
    _sounds("a sound outside of the folder of its rows", "/etc/passwd"),
    _sounds("a sound without samples", "empty.wav"),
    _images("an image outside of the folder of its rows", "/etc/passwd"),
    _images("an image in the network", "https://example.com/cat.png"),
    _images("a text in place of an image", "rows.jsonl"),
    _images("a video", "cat.mp4", "video"),
    _data("a CSV file with semicolons", "rows", "csv", "rows.csv", "text;number\na;1\n"),
    Mistake(
        "evaluations without held-out data",
        STATS,
        BAD,
        {"spec.trainer.evaluation": {"everySteps": 5}, "spec.data.validation": {"fraction": 0}},
    ),
    Mistake(
        "three lines of text, and evaluations",
        STATS,
        BAD,
        {
            "spec.data.sources": [{"name": "short", "text": {"paths": ["short.txt"]}}],
            "spec.trainer.evaluation": {"everySteps": 5},
        },
        files={"short.txt": "one\ntwo\nthree\n"},
    ),
    _data(
        "a folder of pictures as text",
        "pictures",
        "text",
        "pictures",
        b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR",
        file="pictures/a.png",
    ),
    _data("a PDF as text", "paper", "text", "paper.pdf", b"%PDF-1.4\n1 0 obj\n"),
    _data(
        "more bad rows than may be skipped", "rows", "jsonl", "rows.jsonl", '{"text": "a"}\nnot JSON\n', onBadRow="skip"
    ),
    _data("only hidden files", "notes", "text", "hidden", "text\n", file="hidden/.a.txt"),
    _data("files without text", "blank", "text", "blank.txt", "", command="stats"),
    Mistake("a tokenizer of files that are not there", ("tokenizer", "train", "absent.txt"), BAD),
    Mistake("a tokenizer of a glob that matches nothing", ("tokenizer", "train", "*.jsonl.gz"), BAD),
    Mistake("a tokenizer of an empty path", ("tokenizer", "train", " "), BAD),
    Mistake(
        "a tokenizer of a field that the rows lack",
        ("tokenizer", "train", "rows.jsonl", "--field", "body"),
        BAD,
        files={"rows.jsonl": "{}\n"},
    ),
    Mistake(
        "a tokenizer to be written below a file", ("tokenizer", "train", "notes", "-o", "run.yaml/tokenizer.json"), BAD
    ),
)

ROOTS = (
    Mistake("the checkpoints of a run that has none", ("checkpoints", "show", "run.yaml"), BAD),
    Mistake("the checkpoints of a directory that has none", ("checkpoints", "show", "notes"), BAD),
    Mistake("the checkpoints of a document that is not there", ("checkpoints", "list", "absent.yaml"), BAD),
    Mistake("the checkpoints of an address of an unknown kind", ("checkpoints", "list", "ftp://server/notes"), BAD),
    Mistake(
        "a copy for a run without a namespace", ("checkpoints", "copy", "run.yaml", "there", "--run", "other"), BAD
    ),
    Mistake("a root below a file", ("doctor", f"file://{FOLDER}/run.yaml/root"), ExitCode.ROOT_UNUSABLE),
    Mistake("a statement about a run without checkpoints", ("prove", "run.yaml"), BAD),
    Mistake(
        "a signed statement without the key to check",
        ("prove", "notes", "--check", "statement.json"),
        BAD,
        files={"statement.json": '{"payload":"","payloadType":"","signatures":[]}'},
    ),
    Mistake("a key where nothing is checked", ("prove", "run.yaml", "--public-key", "key.pem"), BAD),
    Mistake("a replay from nowhere", ("replay", "run.yaml"), BAD),
    Mistake(
        "a record that no replay made",
        ("prove", "run.yaml", "--replay", "record.json"),
        BAD,
        files={"record.json": "{}"},
    ),
    Mistake("a step that is not there", ("checkpoints", "diff", "root", "10", "7"), BAD, trained={}),
    Mistake("a pin on a step that is not there", ("checkpoints", "pin", "root", "--step", "7"), BAD, trained={}),
    Mistake(
        "a copy to a root that is in use", ("checkpoints", "copy", "root", "root"), ExitCode.ROOT_TAKEN, trained={}
    ),
)

CLUSTER = (
    Mistake("no cluster", ("status", "notes"), 1),
    Mistake("no such context", ("logs", "notes", "--context", "absent"), 1),
    Mistake("objects of a run that is not valid", ("render", "run.yaml"), BAD, {"spec.modle": {}}),
)

TRAINING = (
    Mistake("a document that is not there, to train", ("train", "absent.yaml"), BAD),
    Mistake("a TPU where there is none", TRAIN, BAD, {"spec.accelerator": {"type": "v6e", "topology": "2x2"}}),
    Mistake(
        "a GPU where there is none",
        TRAIN,
        BAD,
        {"spec.accelerator": {"type": "h100", "topology": "1x8"}, "spec.trainer.batchSize": 8},
    ),
    Mistake("a model that cannot fit", TRAIN, BAD, {"spec.model.hiddenSize": 2**20}),
    Mistake(
        "a batch that cannot fit", TRAIN, BAD, {"spec.trainer.batchSize": 2**24, "spec.trainer.sequenceLength": 65_536}
    ),
    Mistake(
        "sequences too long for this machine",
        TRAIN,
        BAD,
        {"spec.trainer.sequenceLength": 65_536, "spec.trainer.batchSize": 64},
    ),
    Mistake("a root that cannot be written", (*TRAIN, "--checkpoint-root", "run.yaml/root"), ExitCode.ROOT_UNUSABLE),
    Mistake("a checkpoint of an unknown run", TRAIN, BAD, {"spec.from": {"run": "other"}}),
    Mistake("another seed under a checkpoint", TRAIN, ExitCode.RUN_CHANGED, {"spec.trainer.seed": 7}, trained={}),
    Mistake("a branch of a run that has not begun", (*TRAIN, "--branch", "hot"), ExitCode.NO_VALID_CHECKPOINT),
    Mistake(
        "a branch from a step without a checkpoint",
        (*TRAIN, "--branch", "hot", "--from-step", "7"),
        ExitCode.NO_VALID_CHECKPOINT,
        trained={},
    ),
    Mistake("a branch that does no step", (*TRAIN, "--branch", "hot"), BAD, trained={}),
    Mistake(
        "another model in a branch",
        (*TRAIN, "--branch", "hot"),
        ExitCode.RUN_CHANGED,
        {"spec.model.numHiddenLayers": 3, "spec.trainer.steps": 20},
        trained={},
    ),
    Mistake("fewer steps than are done", TRAIN, ExitCode.RUN_CHANGED, {"spec.trainer.steps": 5}, trained={}),
    Mistake("the root of another run", TRAIN, ExitCode.ROOT_TAKEN, trained={"metadata.name": "other"}),
    Mistake(
        "another text under a checkpoint, in a look",
        STATS,
        BAD,
        files={"notes/1.txt": "something else altogether\n" * 100},
        trained={},
    ),
    Mistake(
        "a fresh start in an object store",
        (*TRAIN, "--fresh"),
        BAD,
        {"spec.checkpoint.root": "gs://bucket/root"},
    ),
    Mistake(
        "another text under a checkpoint",
        TRAIN,
        BAD,
        files={"notes/1.txt": "something else altogether\n" * 100},
        trained={},
    ),
)

COMMANDS = (
    Mistake("a misspelt command", ("trian", "run.yaml"), 2),
    Mistake("an unknown command", ("frobnicate", "run.yaml"), 2),
    Mistake("a misspelt command of a group", ("data", "sats", "run.yaml"), 2),
    Mistake("a misspelt option", (*VALIDATE, "--defualts", "run.yaml"), 2),
    Mistake("an unknown option", (*VALIDATE, "--frobnicate"), 2),
    Mistake("an option without its value", (*VALIDATE, "--defaults"), 2),
    Mistake("no document", ("validate",), 2),
    Mistake("one document too many", (*VALIDATE, "run.yaml"), 2),
    Mistake("a word in place of a number", ("checkpoints", "diff", "root", "first", "second"), 2),
)

FIRST_HOUR = (
    Mistake("a text of a run that has not begun", ("sample", "root"), BAD),
    Mistake("a text of a document", ("sample", "run.yaml"), BAD),
    Mistake("a text of a folder that holds no checkpoint", ("sample", "notes"), BAD),
    Mistake("a name of the Hugging Face hub in place of a root", ("sample", "Qwen/Qwen3-0.6B"), BAD),
    Mistake("a name of the Hugging Face hub in place of a folder", ("chat", "hf:Qwen/Qwen3-0.6B"), BAD),
    Mistake("a folder without a model", ("chat", "hf:notes"), BAD),
    Mistake("a step that is no number", ("sample", "root@last"), BAD),
    Mistake("a prompt in a file that is not there", ("sample", "root", "--prompt-file", "absent.txt"), BAD),
    Mistake("a temperature below 0", ("sample", "root", "--temperature", "-1"), 2),
    Mistake("a text of no tokens", ("sample", "root", "--max-tokens", "0"), 2),
    Mistake("a probability above 1", ("chat", "root", "--top-p", "1.5"), 2),
    Mistake("a type of numbers that a model cannot have", ("sample", "root", "--dtype", "fp16"), 2),
    Mistake("devices without their axis", ("sample", "root", "--mesh", "2"), BAD),
    Mistake("a sound to be heard by a run that has not begun", ("transcribe", "a.wav", "--checkpoint", "root"), BAD),
    Mistake(
        "a model that Levanter does not have",
        ("import-config", "levanter.yaml"),
        BAD,
        files={"levanter.yaml": "model: {type: whispers}\ntrainer: {num_train_steps: 1}\n"},
    ),
    Mistake("a server of a run that has not begun", ("serve", "root"), BAD),
    Mistake("a port that does not exist", ("serve", "root", "--port", "70000"), 2),
    Mistake("keys in a file that is not there", ("serve", "root", "--api-key-file", "keys"), BAD),
    Mistake("an evaluation without a task", ("eval", "root"), BAD),
    Mistake("an evaluation of an unknown task", ("eval", "root", "--task", "hellaswag=rows.jsonl"), BAD),
    Mistake("a task without its file", ("eval", "root", "--task", "mmlu"), BAD),
    Mistake("a task whose file is not there", ("eval", "root", "--task", "mmlu=absent.jsonl"), BAD),
    Mistake("a folder without CORE", ("eval", "root", "--core", "notes"), BAD),
    Mistake(
        "several answers that are all the same",
        ("eval", "root", "--task", "gsm8k=rows.jsonl", "--answers", "4"),
        BAD,
        files={"rows.jsonl": '{"question": "1 + 1?", "answer": "#### 2"}\n'},
    ),
    Mistake("an export of a run that has not begun", ("export", "hf", "root", "out"), BAD),
    Mistake("an import of a folder that is not there", ("import", "hf", "absent", "--root", "other"), BAD),
    Mistake("a report of a run that has not begun, without a cluster", ("report", "root"), 1),
    Mistake("a comparison of a run that has not begun, without a cluster", ("compare", "root"), 1),
    Mistake("a test of a folder that is not there", ("doctor", "absent/root"), BAD),
    Mistake("a nanochat without blocks", ("dial", "--depth", "0"), 2),
    Mistake("a plan with an unknown assumption", ("plan", "run.yaml", "--assume", "prise=3"), BAD),
    Mistake("a plan with a price that is no number", ("plan", "run.yaml", "--assume", "price=cheap"), BAD),
    Mistake("the best mesh without a search", ("plan", "run.yaml", "--write", "best.yaml"), 2),
    Mistake("a field without its value", (*VALIDATE, "--set", "spec.trainer.steps"), BAD),
    Mistake("a misspelt field on the command line", (*VALIDATE, "--set", "spec.trainer.stepps=5"), BAD),
    Mistake("a field outside of the spec", (*VALIDATE, "--set", "trainer.steps=5"), BAD),
    Mistake("a word as a number on the command line", (*VALIDATE, "--set", "spec.trainer.steps=many"), BAD),
    Mistake("a source that the run does not have", (*VALIDATE, "--set", "spec.data.sources[3].weight=2"), BAD),
    Mistake("a vocabulary smaller than the bytes", ("tokenizer", "train", "notes", "--vocab-size", "10"), 2),
    Mistake("a step of a branch without a branch", (*TRAIN, "--from-step", "5"), 2),
    Mistake("a GPU as the device", (*TRAIN, "--device", "gpu"), 2),
    Mistake(
        "two runs of one name in a sweep",
        SWEEP,
        BAD,
        files={"sweep.yaml": "list: [{metadata.name: a}, {metadata.name: a}]\n"},
    ),
    Mistake(
        "a sweep of a field that does not exist",
        SWEEP,
        BAD,
        files={"sweep.yaml": "grid: {spec.optimizer.lr: [0.1, 0.2]}\n"},
    ),
    Mistake("an empty sweep", SWEEP, BAD, files={"sweep.yaml": "# to be written\n"}),
    Mistake("a sweep that is not there", SWEEP, BAD),
)

SECTIONS: dict[str, tuple[Mistake, ...]] = {
    "The command": COMMANDS,
    "The first hour": FIRST_HOUR,
    "Files": FILES,
    "Fields": FIELDS,
    "Combinations": COMBINATIONS,
    "Places": PLACES,
    "Data and tokenizers": DATA,
    "Checkpoint roots": ROOTS,
    "Clusters": CLUSTER,
    "Training": TRAINING,
}
ROWS = tuple(row for rows in SECTIONS.values() for row in rows)

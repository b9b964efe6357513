"""The hostile inputs: models, tokenizers, adapters, data, documents and checkpoint roots of strangers."""

from __future__ import annotations

import gzip
import json
from typing import Any

from halcyon_api.ends import ExitCode
from tests.hostile import inputs as of
from tests.hostile.inputs import Make
from tests.mistakes.row import FOLDER, Changes, Mistake

BAD = ExitCode.BAD_CONFIGURATION
VALIDATE, BUILD = ("validate", "run.yaml"), ("data", "build", "run.yaml")
TOKENIZER: Changes = {"spec.tokenizer": {"tokenizerJson": {"path": f"{FOLDER}/tokenizer.json"}}}
IMPORT = ("import", "hf", "model", "--root", "made")
ADAPTER = (*IMPORT, "--adapter", "adapter")
CHECK = ("prove", "root", "--check", "statement.json")
REPORT, LIST = ("report", "root", "--html", "page.html"), ("checkpoints", "list", "root")
_ENDLESS = r"(\w|\w\w)*!"
_DEEP = 100_000
_KINDS = {".txt": "text", ".parquet": "parquet", ".csv": "csv"}


def _hostile(words: str, command: tuple[str, ...], make: Make, code: int, changes: Changes | None = None) -> Mistake:
    return Mistake(words, command, code, changes or {}, make=make)


def _template(words: str, template: str, code: int = BAD) -> Mistake:
    """A template of conversations."""
    rows = json.dumps({"messages": [{"role": "user", "content": "6*7?"}, {"role": "assistant", "content": "42"}]})
    source = {"name": "chats", "jsonl": {"paths": [f"{FOLDER}/rows.jsonl"]}, "format": {"chat": {"template": template}}}
    return _hostile(words, VALIDATE, of.files({"rows.jsonl": f"{rows}\n"}), code, {"spec.data.sources": [source]})


def _data(words: str, name: str, make: Make, code: int = BAD, **format_: Any) -> Mistake:
    """A file of a data source."""
    kind = next((kind for end, kind in _KINDS.items() if end in name), "jsonl")
    source: dict[str, Any] = {"name": "web", kind: {"paths": [f"{FOLDER}/{name}"]}}
    return _hostile(
        words, BUILD, make, code, {"spec.data.sources": [source | ({"format": format_} if format_ else {})]}
    )


def _tokenizer(words: str, code: int = BAD, **changes: Any) -> Mistake:
    """A tokenizer.json."""
    return _hostile(words, BUILD, of.file("tokenizer.json", lambda: of.tokenizer(**changes)), code, TOKENIZER)


def _model(words: str, tensors: bytes, code: int = BAD, **config: Any) -> Mistake:
    return _hostile(words, IMPORT, of.model(tensors, **config), code)


def _adapter(words: str, code: int = BAD, **config: Any) -> Mistake:
    return _hostile(words, ADAPTER, of.adapter(**config), code)


def _document(words: str, text: str, code: int = BAD) -> Mistake:
    return _hostile(words, VALIDATE, of.files({"run.yaml": text}), code)


_LISTS = (
    "{% set n = namespace(x=[1], y=[1]) %}{% for i in range(60) %}{% set n.x = [n.x, n.x] %}{% set n.y = [n.y, n.y] "
    "%}{% endfor %}"
)
TEMPLATES = (
    _template("a text times ten billion", "{{ 'a' * 10**10 }}"),
    _template("a text times a hundred million", "{{ 'a' * 10**8 }}"),
    _template("loops in loops", "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}"),
    _template("a text that is centred in ten billion columns", "{{ 'a'.center(10**10) }}"),
    _template("a number with ten billion digits", "{{ '%10000000000d' % 1 }}"),
    _template("a power of a power", "{{ 10 ** (10 ** 10) }}"),
    _template(
        "a text that is doubled sixty times",
        "{% set n = namespace(x='a') %}{% for i in range(60) %}{% set n.x = n.x ~ n.x %}{% endfor %}",
    ),
    _template("lists in lists, printed", f"{_LISTS}{{{{ n.x }}}}"),
    _template("lists in lists, compared", f"{_LISTS}{{{{ n.x == n.y }}}}"),
    _template(
        "a macro that calls itself twice",
        "{% macro m(n) %}{% if n %}{{ m(n - 1) }}{{ m(n - 1) }}{% endif %}{% endmacro %}{{ m(99) }}",
    ),
    _template("a macro that calls itself for ever", "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}"),
    _template("a loop over a billion numbers", "{% for i in range(10**9) %}{% endfor %}"),
    _template("millions of words of Jinja's own", "{{ lipsum(10**7) }}"),
    _template("thousands of nested conditions", "{% if 1 %}" * 3000 + "{% endif %}" * 3000),
    _template("thirty nested loops", "{% for i in [1] %}" * 30 + "{% endfor %}" * 30),
    _template("sixty thousand signs", "{{ " + "-" * 60_000 + "1 }}"),
    _template("a look at Python's own objects", "{{ ''.__class__.__mro__ }}"),
)
TOKENIZERS = (
    _tokenizer("a normalizer that doubles a letter forty times", normalizer=of.steps(*[of.replacing("a", "aa")] * 40)),
    _tokenizer(
        "a normalizer that replaces any letter by a thousand",
        normalizer=of.steps(*[of.replacing(".", "a" * 1000, "Regex")] * 3),
    ),
    _tokenizer(
        "a normalizer that puts megabytes before a text",
        normalizer=of.steps(*[{"type": "Prepend", "prepend": "a" * 10**6}] * 9),
    ),
    _tokenizer(
        "a decoder that doubles a letter forty times",
        decoder=of.steps(*[of.replacing("a", "aa")] * 40, kind="decoders"),
    ),
    _tokenizer("a normalizer with a pattern of exponential time", normalizer=of.replacing(_ENDLESS, "", "Regex")),
    _tokenizer(
        "a split pattern of exponential time",
        0,
        pre_tokenizer={"type": "Split", "pattern": {"Regex": _ENDLESS}, "behavior": "Isolated", "invert": False},
    ),
    _tokenizer("a pattern that is not valid", normalizer=of.replacing("((", "", "Regex")),
    _tokenizer(
        "an added token with the id 4,000,000,000",
        added_tokens=[{"id": 4 * 10**9, "content": "<|endoftext|>", "special": True}],
    ),
    _tokenizer("a word with the id 2,147,483,647", model_vocab={"a": 0, "b": 2**31 - 1}),
    _tokenizer("a negative id", model_vocab={"a": -1}),
    _tokenizer("words of WordPiece without a limit", model_type="WordPiece", model_max_input_chars_per_word=10**9),
    _tokenizer("ten thousand steps", normalizer=of.steps(*[{"type": "NFC"}] * 10_000)),
    _tokenizer("an added token that is a number", added_tokens=[1]),
    _hostile("deeply nested JSON", BUILD, of.files({"tokenizer.json": "[" * _DEEP + "]" * _DEEP}), BAD, TOKENIZER),
    _hostile("a tokenizer that is a pipe", BUILD, of.pipe("tokenizer.json"), BAD, TOKENIZER),
    _hostile("a tokenizer that is a device", BUILD, of.link("tokenizer.json", "/dev/zero"), BAD, TOKENIZER),
    _hostile(
        "a SentencePiece model of zeros",
        BUILD,
        of.files({"a.model": bytes(10**6)}),
        BAD,
        {"spec.tokenizer": {"sentencePiece": {"path": f"{FOLDER}/a.model"}}},
    ),
    _hostile(
        "a rank of 4,000,000,000 in a file of tiktoken",
        BUILD,
        of.files({"a.tiktoken": "YQ== 4000000000\n"}),
        BAD,
        {"spec.tokenizer": {"tiktoken": {"encoding": "gpt2", "path": f"{FOLDER}/a.tiktoken"}}},
    ),
)
_ROWS = json.dumps({"tokens": [1, 4 * 10**9]})
DATA = (
    _data(
        "64 KB of zstd that become 2 GiB", "rows.jsonl.zst", of.file("rows.jsonl.zst", lambda: of.repeated_zstd(2**31))
    ),
    _data(
        "a text file of zstd that becomes 2 GiB",
        "rows.txt.zst",
        of.file("rows.txt.zst", lambda: of.repeated_zstd(2**31)),
    ),
    _data(
        "zstd that looks back over 1 GiB",
        "rows.jsonl.zst",
        of.file("rows.jsonl.zst", lambda: of.repeated_zstd(2**20, 30)),
    ),
    _data(
        "gzip of 16 MiB of one letter", "rows.jsonl.gz", of.file("rows.jsonl.gz", lambda: gzip.compress(b"a" * 2**24))
    ),
    _data("random bytes as gzip", "rows.jsonl.gz", of.files({"rows.jsonl.gz": b"\x1f\x8b" + b"\x00\xff" * 9999})),
    _data(
        "a text of 100 KB in 900 rows of Parquet",
        "rows.parquet",
        of.parquet(lambda: {"text": of.repeated(900, "a b " * 25000)}),
        0,
    ),
    _data(
        "a text of 100 KB a thousand times in one row of Parquet",
        "rows.parquet",
        of.parquet(lambda: {"messages": [[{"role": "user", "content": "a" * 100000}] * 1000]}),
        chat={},
    ),
    _data(
        "two hundred thousand rows of Parquet in 1 KB",
        "rows.parquet",
        of.parquet(lambda: {"text": of.repeated(200000, "a")}),
        0,
    ),
    _data(
        "a Parquet file with a wrong footer",
        "rows.parquet",
        of.files({"rows.parquet": b"PAR1" + b"\xff" * 9999 + b"PAR1"}),
    ),
    _data("deeply nested JSON in a row", "rows.jsonl", of.files({"rows.jsonl": "[" * _DEEP + "]" * _DEEP + "\n"})),
    _data(
        "a row of 24 MiB", "rows.jsonl", of.file("rows.jsonl", lambda: json.dumps({"text": "a b" * 2**23}) + "\n"), 0
    ),
    _data(
        "a number of a million digits in a row",
        "rows.jsonl",
        of.files({"rows.jsonl": '{"text": ' + "9" * 10**6 + "}\n"}),
    ),
    _data("a CSV file with an endless quotation", "rows.csv", of.files({"rows.csv": 'text\n"' + "a" * 10**7})),
    _data("a token id of 4,000,000,000", "rows.jsonl", of.files({"rows.jsonl": f"{_ROWS}\n"}), prebuilt={}),
    _data(
        "a token id of 2^200",
        "rows.jsonl",
        of.files({"rows.jsonl": json.dumps({"tokens": [2**200]}) + "\n"}),
        prebuilt={},
    ),
    _data("data that is a pipe", "rows.jsonl", of.pipe("rows.jsonl")),
    _data("data that is a link to itself", "rows.jsonl", of.link("rows.jsonl", "rows.jsonl")),
    _data(
        "a folder of data that is a link to its parent",
        "rows",
        of.together(of.link("rows/again", ".."), of.pipe("rows/pipe")),
    ),
)
MODELS = (
    _model("a header of 2^63 bytes", of.safetensors({}, size=2**63)),
    _model("a header that is longer than its file", of.safetensors({}, size=10**7)),
    _model("a deeply nested header", of.safetensors(b'{"a":' + b"[" * _DEEP + b"]" * _DEEP + b"}")),
    _model(
        "a tensor of 2^60 numbers",
        of.safetensors({"a": {"dtype": "F32", "shape": [2**30, 2**30], "data_offsets": [0, 2**62]}}),
    ),
    _model(
        "a tensor with offsets that go back",
        of.safetensors({"a": {"dtype": "F32", "shape": [2], "data_offsets": [8, 0]}}, bytes(8)),
    ),
    _model(
        "two tensors in one place",
        of.safetensors({n: {"dtype": "U8", "shape": [8], "data_offsets": [0, 8]} for n in "ab"}, bytes(8)),
    ),
    _model(
        "a shape of a negative number",
        of.safetensors({"a": {"dtype": "F32", "shape": [-2, -1], "data_offsets": [0, 8]}}, bytes(8)),
    ),
    _model(
        "a shape of a million dimensions",
        of.safetensors({"a": {"dtype": "F32", "shape": [1] * 10**6, "data_offsets": [0, 4]}}, bytes(4)),
    ),
    _model(
        "a weight of 2^80 values in 9 bytes",
        of.safetensors(
            {
                "a.weight": {"dtype": "U8", "shape": [9, 1], "data_offsets": [0, 9]},
                "a.weight.quant_state.bitsandbytes__nf4": {"dtype": "U8", "shape": [58], "data_offsets": [9, 67]},
            },
            bytes(9) + b'{"blocksize": 64, "shape": [%d, %d]}' % (2**40, 2**40),
        ),
        quantization_config={"quant_method": "bitsandbytes"},
    ),
    _model("a zip file in the place of tensors", of.zip_bomb()),
    _model("2^60 layers", of.safetensors({}), num_hidden_layers=2**60),
    _model("a width of 10^400", of.safetensors({}), hidden_size=10**400),
    _model("a width that is a list", of.safetensors({}), hidden_size=[8]),
    _hostile(
        "a deeply nested config.json", IMPORT, of.files({"model/config.json": '{"a":' * _DEEP + "1" + "}" * _DEEP}), BAD
    ),
    _hostile("a config.json that is a pipe", IMPORT, of.pipe("model/config.json"), ExitCode.ROOT_UNUSABLE),
    _hostile(
        "tensors that are a pipe",
        IMPORT,
        of.together(of.files({"model/config.json": json.dumps(of.CONFIG)}), of.pipe("model/model.safetensors")),
        ExitCode.ROOT_UNUSABLE,
    ),
    _hostile(
        "a config.json that is a link to itself",
        IMPORT,
        of.link("model/config.json", "config.json"),
        ExitCode.ROOT_UNUSABLE,
    ),
)
ADAPTERS = (
    _adapter("target_modules of exponential time", target_modules=f"(.*.*)*{_ENDLESS}"),
    _adapter("a pattern of a rank of exponential time", rank_pattern={r"(.|\w)*!": 2}),
    _adapter("a pattern that repeats a billion times", target_modules="(a{1000}){1000000}"),
    _adapter("a pattern of an adapter that is not valid", target_modules="("),
    _adapter("a key that is half a pattern", 0, alpha_pattern={"a)(": 2}),
    _adapter("a rank of 0", r=0),
    _adapter("a rank of 10^30", r=10**30),
    _adapter("an alpha of NaN", lora_alpha=float("nan")),
    _hostile("tensors of an adapter with the rank 0", ADAPTER, of.adapter(rank=0), BAD),
    _hostile(
        "a layer with a number of 5,000 digits",
        ADAPTER,
        of.adapter(f"model.layers.{'9' * 5000}.x", layers_to_transform=[0]),
        BAD,
    ),
)
_BOMB = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{chr(98 + n)}: &{chr(98 + n)} [{', '.join([f'*{chr(97 + n)}'] * 9)}]\n" for n in range(9)
)
DOCUMENTS = (
    _document("aliases that repeat a list a billion times", _BOMB),
    _document("an alias of itself", "a: &a [*a]\n"),
    _document("deeply nested YAML", "[" * 10_000 + "]" * 10_000),
    _document("a tag of a Python object", "!!python/object/apply:os.system ['true']\n"),
    _document("a number of a million digits", f"spec: {'9' * 10**6}\n"),
    _document("a key of a megabyte", f"? {'a' * 10**6}\n: 1\n"),
    _hostile("a document that is a pipe", VALIDATE, of.pipe("run.yaml"), BAD),
    _hostile("a document that is a device", VALIDATE, of.link("run.yaml", "/dev/zero"), BAD),
    _hostile("a document of 2 GiB", VALIDATE, of.sparse("run.yaml", 2**31), BAD),
    _hostile("defaults that are a pipe", (*VALIDATE, "--defaults", "pipe"), of.pipe("pipe"), BAD),
)
_STEP = {"event": "step", "time": 1.0, "step": 1, "loss": 1.0}
ROOTS = (
    _hostile("a $ in a run's name", REPORT, of.segment(of.RUN_GROUP | {"run": r"$\frac{$"}, _STEP), 0),
    _hostile("a text in the place of a time", REPORT, of.segment(of.RUN_GROUP, _STEP | {"time": "yesterday"}), 1),
    _hostile("a time after the year 9999", REPORT, of.segment(of.RUN_GROUP | {"began": 1e300}, _STEP), 1),
    _hostile("control characters in a run's name", REPORT, of.segment(of.RUN_GROUP | {"run": "a\x1b[2J"}, _STEP), 1),
    _hostile(
        "a history of zstd that becomes 1 GiB",
        REPORT,
        of.file("root/metrics/000000001-000000001.0.000001.w1.jsonl.zst", lambda: of.repeated_zstd(2**30)),
        1,
    ),
    _hostile(
        "a history that is a pipe",
        REPORT,
        of.pipe("root/metrics/000000001-000000001.0.000001.w1.jsonl.zst"),
        ExitCode.ROOT_UNUSABLE,
    ),
    _hostile("a HEAD that is a pipe", LIST, of.pipe("root/HEAD"), ExitCode.ROOT_UNUSABLE),
    _hostile("a HEAD with a text in the place of a time", LIST, of.head(time="yesterday"), 0),
    _hostile("a HEAD of deeply nested JSON", LIST, of.files({"root/HEAD": '{"a":' * _DEEP + "1" + "}" * _DEEP}), 0),
    _hostile("a HEAD of zeros", LIST, of.files({"root/HEAD": bytes(10**7)}), 0),
)


def _statement(words: str, text: str | bytes, code: int = 1) -> Mistake:
    """A statement about a root."""
    return _hostile(words, CHECK, of.files({"statement.json": text, "root/LOCK": ""}), code)


STATEMENTS = (
    _statement("a statement of deeply nested JSON", "[" * _DEEP + "]" * _DEEP),
    _statement("a statement with a key that is given twice", '{"_type":"https://in-toto.io/Statement/v1","_type":""}'),
    _statement("a statement of millions of empty lists", "[[]" + ",[]" * 2_700_000 + "]"),
    _statement("a statement of millions of empty objects", "[{}" + ",{}" * 2_700_000 + "]"),
    _statement("a statement of thousands of wrong checkpoints", '{"subject":[0' + ",0" * 199_990 + "]}"),
    _statement("a statement with a number of a million digits", f'{{"_type":{"9" * 10**6}}}'),
    _statement("a statement with control characters", '{"a\\u001b[2J":1}'),
    _statement("a statement of random bytes", bytes(range(256)) * 99, BAD),
    _hostile("a statement of 2 GiB", CHECK, of.together(of.sparse("statement.json", 2**31), of.head()), BAD),
    _hostile("a statement that is a pipe", CHECK, of.together(of.pipe("statement.json"), of.head()), BAD),
    _hostile(
        "a public key that is a device",
        (*CHECK, "--public-key", "key.pem"),
        of.together(of.link("key.pem", "/dev/zero"), of.head()),
        BAD,
    ),
    _hostile(
        "a record of a replay that is deeply nested",
        ("prove", "root", "--replay", "replay.json"),
        of.together(of.files({"replay.json": "[" * _DEEP + "]" * _DEEP}), of.head()),
        BAD,
    ),
)

SECTIONS: dict[str, tuple[Mistake, ...]] = {
    "Chat templates": TEMPLATES,
    "Tokenizers": TOKENIZERS,
    "Data": DATA,
    "Models": MODELS,
    "Adapters": ADAPTERS,
    "Documents": DOCUMENTS,
    "Checkpoint roots": ROOTS,
    "Statements": STATEMENTS,
}
ROWS = tuple(row for rows in SECTIONS.values() for row in rows)

"""The chat template of a trained model: that of its data is used by every command and exported."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import tokenizers

from halcyon.checkpoint.opening import entry_of
from halcyon.data.cache.ledger import identity
from halcyon.data.formats.template import DEFAULT_TEMPLATE, ChatTemplate, day
from halcyon.host.errors import BadConfiguration
from halcyon.host.storage.store import Store
from halcyon.inference.chat import ChatPrompts
from halcyon.tokenizer import load
from halcyon.tokenizer.bpe import train_bpe
from halcyon.tokenizer.resolve import definition_of
from halcyon.tokenizer.side_files import spelling
from halcyon.weights.chat_template import chat_template, template_of_run, template_to_export, with_templates
from halcyon.weights.companions import exported_companions, files_for, template_of, token_ids
from halcyon.weights.exporting import export_model
from halcyon.weights.root import StoredModel, stored_model
from halcyon_api.base import InvalidRun
from halcyon_api.model_file import with_model
from halcyon_api.training_run import TrainingRunSpec
from tests.trainer.data.formats.standin import MarkedBytes
from tests.trainer.weights.folders import imported, llama_tensors, store_of, write_folder

MINE, OTHER, OF_FILES = "mine {{ add_generation_prompt }}", "it begins no turn", "of files"
FILES = {"chat_template.jinja": OF_FILES.encode()}


def data(*forms: dict[str, Any]) -> dict[str, Any]:
    return {"sources": [{"name": f"source-{number}", "format": form} for number, form in enumerate(forms)]}


@pytest.mark.parametrize(
    ("of_run", "files", "used", "exported"),
    [
        ({}, {}, None, None),
        ({}, FILES, OF_FILES, OF_FILES),
        (data({"text": {}}), FILES, OF_FILES, OF_FILES),
        (data({"chat": {"template": MINE}}), FILES, MINE, MINE),
        (data({"chat": {"template": MINE}}), {"chat_template.jinja": MINE.encode()}, MINE, MINE),
        (data({"chat": {"template": OTHER}}), FILES, OF_FILES, OF_FILES),
        (data({"chat": {"template": OTHER}}), {}, OTHER, OTHER),
        (data({"chat": {"template": MINE}}, {"preference": {"template": OTHER}}), FILES, OF_FILES, OF_FILES),
        (data({"chat": {}}), FILES, None, DEFAULT_TEMPLATE),
        (data({"prompt": {}}, {"text": {}}), {}, None, DEFAULT_TEMPLATE),
    ],
)
def test_the_template_of_the_data_comes_first(
    of_run: dict[str, Any], files: dict[str, bytes], used: str | None, exported: str | None
) -> None:
    assert template_of_run(of_run, files) == used
    assert template_to_export(of_run, files) == exported


def test_of_several_templates_that_for_tools_prints_tools() -> None:
    named = {"default": "plain {{ messages[0].content }}\n", "rag": "r", "tool_use": "{{ tools | length }} tools\n"}
    listed = [{"name": name, "template": template} for name, template in named.items()]
    files = {"tokenizer_config.json": json.dumps({"chat_template": listed}).encode()}
    template = ChatTemplate(template_of(files), MarkedBytes(), "the template", day(None))
    asked = [{"role": "user", "content": "?"}]
    assert template.uses("tools")
    assert [template.render(asked, tools).text.text for tools in (None, [{}, {}])] == ["plain ?", "2 tools"]
    assert template_of({"chat_template.jinja": b"\xef\xbb\xbfplain"}) == "plain", "without the mark of an editor"


def test_a_root_answers_with_the_template_of_its_data_and_exports_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tmp_path / "root"
    imported(write_folder(tmp_path / "model", llama_tensors()), root)
    assert chat_template(str(root)) is None

    def trained_on_chat(store: Store, entry: Any, **options: Any) -> StoredModel:
        found = stored_model(store, entry, **options)
        assert found.data == {}
        return StoredModel(**{**vars(found), "data": data({"chat": {"template": MINE}})})

    monkeypatch.setattr("halcyon.weights.chat_template.stored_model", trained_on_chat)
    assert chat_template(str(root)) == MINE
    export_model(trained_on_chat(store_of(root), entry_of(store_of(root), None)), store_of(tmp_path / "out"))
    assert chat_template(f"hf:{tmp_path / 'out'}") == MINE


CHATML = (
    "{% for message in messages %}{{ '<|im_start|>' + message.role + '\n' + message.content + '<|im_end|>\n' }}{% "
    "endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
MARKS = ("<|im_start|>", "<|im_end|>")


@pytest.mark.parametrize(
    ("template", "given", "named"),
    [
        (None, None, ["<|eos|>"]),
        (CHATML, None, ["<|eos|>", "<|im_end|>"]),
        (CHATML, ["<|im_start|>"], ["<|im_start|>", "<|eos|>", "<|im_end|>"]),
        (DEFAULT_TEMPLATE, None, ["<|eos|>", "<|assistant_end|>"]),
        ("{{ messages }}", None, ["<|eos|>"]),
    ],
    ids=["text", "chat", "more", "own", "without"],
)
def test_an_export_names_every_token_at_which_an_answer_ends(
    template: str | None, given: list[str] | None, named: list[str]
) -> None:
    definition = train_bpe(["a b c d"] * 10, 300, MARKS)
    tokenizer = load(definition)
    ids = tokenizer.special_tokens
    files = {"tokenizer.json": definition.content, "tokenizer_config.json": b"{}"}
    if given is not None:
        files["generation_config.json"] = json.dumps(
            {"eos_token_id": [ids[name] for name in given], "top_k": 3}
        ).encode()
    written = json.loads(exported_companions(files, definition, tokenizer, 64, template)["generation_config.json"])
    found = written["eos_token_id"]
    assert (found if isinstance(found, list) else [found]) == [ids[name] for name in named]
    assert written.get("top_k") == (None if given is None else 3)
    if template is not None:
        with_ends = load(replace(definition, ends=tuple(ids[name] for name in given or ())))
        assert set(ChatPrompts(with_ends, template).ends) == {ids[name] for name in named}


@pytest.mark.parametrize("source", ["generation_config.json", "config.json"])
def test_another_tokenizer_keeps_the_ends_of_the_base_and_its_own_padding(source: str) -> None:
    base, own = (train_bpe(["a b c d"] * 10, 300, names) for names in (MARKS, ("<|more|>", *MARKS)))
    old, new = load(base).special_tokens, load(own).special_tokens
    files = {
        "tokenizer.json": base.content,
        "tokenizer_config.json": b"{}",
        "config.json": b"{}",
        source: json.dumps({"eos_token_id": [old["<|im_end|>"], old["<|user_end|>"]], "pad_token_id": 3}).encode(),
    }
    definition = replace(own, options={"beginning": "", "eos": "<|im_end|>", "pad": "<|more|>"})
    written = exported_companions(files, definition, load(definition), 64, CHATML)
    generation = json.loads(written["generation_config.json"])
    assert generation["eos_token_id"] == [new["<|im_end|>"], new["<|user_end|>"]]
    assert generation["pad_token_id"] == new["<|more|>"]
    settings = json.loads(written["tokenizer_config.json"])
    assert (settings["eos_token"], settings["pad_token"]) == ("<|im_end|>", "<|more|>")
    config = token_ids(files_for(files, definition, load(definition)), load(definition), None)
    assert config == {key: generation[key] for key in ("eos_token_id", "pad_token_id")}


@pytest.mark.parametrize(
    ("form", "template", "given", "named"),
    [
        ({"chat": {}}, CHATML, None, "<|im_end|>"),
        ({"preference": {}}, CHATML, "<|eos|>", "<|im_end|>"),
        ({"text": {}}, CHATML, None, "<|eos|>"),
        ({"chat": {}}, CHATML, "<|im_end|>", "<|eos|>"),
        ({"chat": {}}, CHATML + "{# #}{{ eos_token if false }}", None, "<|eos|>"),
        ({"chat": {}}, "{{ messages }}", None, "<|eos|>"),
    ],
    ids=["chat", "preference", "text", "named", "printed", "without"],
)
def test_an_export_of_conversations_names_the_end_of_an_answer_where_programs_read_one_end(
    tmp_path: Path, form: dict[str, Any], template: str, given: str | None, named: str
) -> None:
    """As chat models do.

    The converter of llama.cpp takes ``eos_token`` of tokenizer_config.json, and no list of ends.
    """
    definition = train_bpe(["a b c d"] * 10, 300, MARKS)
    ids = load(definition).special_tokens
    folder = write_folder(tmp_path / "model", llama_tensors())
    files: dict[str, Any] = {
        "tokenizer_config.json": {"eos_token": "<|eos|>"},
        "special_tokens_map.json": {"eos_token": {"content": "<|eos|>"}},
    }
    if given is not None:
        files["generation_config.json"] = {"eos_token_id": ids[given]}
    for name, document in files.items():
        (folder / name).write_text(json.dumps(document))
    (folder / "tokenizer.json").write_bytes(definition.content)
    (folder / "chat_template.jinja").write_text(template)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"eos_token_id": ids["<|eos|>"]}))
    imported(folder, tmp_path / "root")
    stored = stored_model(store_of(tmp_path / "root"), entry_of(store_of(tmp_path / "root"), None))
    (kind,) = form
    export_model(
        replace(stored, data=data({kind: {} if kind == "text" else {"template": template}})), store_of(tmp_path / "out")
    )
    written = {path.name: json.loads(path.read_text()) for path in (tmp_path / "out").glob("*.json")}
    assert written["config.json"]["eos_token_id"] == ids[named]
    for name in ("tokenizer_config.json", "special_tokens_map.json"):
        assert spelling(written[name]["eos_token"]) == named
    again = definition_of({path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()})
    assert again is not None
    assert {ids["<|eos|>"], ids[named]} <= set(load(again).ends)


def test_an_exported_tokenizer_puts_before_a_text_what_stands_there_here() -> None:
    definition = train_bpe(["a b c d"] * 10, 300, ())
    tokenizer = load(definition)
    written = exported_companions({}, definition, tokenizer, 64, None)["tokenizer.json"]
    library = tokenizers.Tokenizer.from_str(written.decode())
    assert library.encode("a b").ids == [*tokenizer.prefix, *tokenizer.encode("a b").tolist()]
    assert library.encode("a b", add_special_tokens=False).ids == tokenizer.encode("a b").tolist()
    again = definition_of({"tokenizer.json": written})
    assert again is not None
    assert load(again).prefix == tokenizer.prefix == (tokenizer.bos_id,)


def run(tmp_path: Path, **sections: Any) -> TrainingRunSpec:
    return TrainingRunSpec.model_validate(
        {
            "accelerator": {"type": "cpu"},
            "model": {"family": "llama"},
            "data": {"sources": [{"name": "talks", "jsonl": {"paths": ["talks.jsonl"]}, "format": {"chat": {}}}]},
            "trainer": {"steps": 1, "batchSize": 1, "sequenceLength": 8},
            "checkpoint": {"root": f"file://{tmp_path / 'root'}"},
            **sections,
        }
    )


def template_in(spec: TrainingRunSpec) -> str | None:
    chat = with_templates(spec).data.sources[0].format.chat
    assert chat is not None
    return chat.template


def test_a_format_without_a_template_takes_that_of_the_model_or_of_the_tokenizer(tmp_path: Path) -> None:
    base, other = tmp_path / "base", tmp_path / "other"
    write_folder(base, llama_tensors())
    other.mkdir()
    (other / "tokenizer_config.json").write_text(
        json.dumps({"chat_template": [{"name": "default", "template": OTHER}]})
    )
    begun = {"from": {"huggingFace": {"path": str(base)}}}
    files = {"tokenizer": {"tokenizerJson": {"path": str(other / "tokenizer.json")}}}
    assert template_in(run(tmp_path)) is None, "Halcyon's own"
    assert template_in(run(tmp_path, **begun)) is None
    assert template_in(run(tmp_path, **files)) == template_in(run(tmp_path, **begun, **files)) == OTHER
    (base / "chat_template.jinja").write_text(MINE)
    assert template_in(run(tmp_path, **begun, **files)) == MINE
    chosen = {
        "sources": [{"name": "talks", "jsonl": {"paths": ["talks.jsonl"]}, "format": {"chat": {"template": OTHER}}}]
    }
    given = run(tmp_path, **begun, data=chosen)
    assert with_templates(given) is given


THINKING = "{{ 'a' if enable_thinking is false else 'b' }}{{ effort }} {{ add_generation_prompt }}"


def test_variables_of_a_format_are_defaults_of_its_template(tmp_path: Path) -> None:
    """A changed value is another text of the template, so other tokens; a request to a server may give its own."""

    def with_variables(template: str | None, **variables: Any) -> TrainingRunSpec:
        chat = {"template": template, "templateVariables": variables}
        source = {"name": "talks", "jsonl": {"paths": ["talks.jsonl"]}, "format": {"chat": chat}}
        return run(tmp_path, data={"sources": [source]})

    tokenizer = load(train_bpe(["a b c d"] * 10, 300, ()))
    spec = with_templates(with_variables(THINKING, enable_thinking=False, effort='é "{{"'))
    assert with_templates(spec) is spec, "the variables are in the text now"
    (source,) = spec.data.sources
    other = with_templates(with_variables(THINKING, enable_thinking=True, effort='é "{{"')).data.sources[0]
    assert identity(source, "", None) != identity(other, "", None), "the tokens are built again"
    assert source.format.chat is not None
    prompts = ChatPrompts(tokenizer, source.format.chat.template)
    asked = [{"role": "user", "content": "?"}]
    assert tokenizer.decode(prompts.seen(asked)[0]) == 'aé "{{" True'
    assert tokenizer.decode(prompts.seen(asked, variables={"enable_thinking": True, "effort": 3})[0]) == "b3 True"
    for template, whose in ((THINKING, "the template"), (None, "Halcyon's own template")):
        with pytest.raises(BadConfiguration, match=f"chat.templateVariables: {whose} has no variable enable_thinkng; "):
            with_templates(with_variables(template, enable_thinkng=False))
    with pytest.raises(BadConfiguration, match="has no variable enable; "):  # it has enable_thinking
        with_templates(with_variables(THINKING, enable=False))
    for wrong in ({"a b": 1}, {"a": None}, {"a": [1]}):
        with pytest.raises(ValueError, match="give names of variables, each with a text, a number, true or false"):
            with_variables(THINKING, **wrong)


def test_a_run_that_begins_with_a_checkpoint_takes_the_template_of_its_root(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "model", llama_tensors())
    (folder / "chat_template.jinja").write_text(OF_FILES)
    imported(folder, tmp_path / "base")
    begun = {"from": {"run": "base", "root": f"file://{tmp_path / 'base'}", "weightsOnly": True}}
    assert template_in(run(tmp_path, **begun)) == OF_FILES


def test_a_document_may_name_the_file_of_a_template(tmp_path: Path) -> None:
    (tmp_path / "templates").mkdir()
    (tmp_path / "templates" / "mine.jinja").write_text(MINE)
    named: Any = {"path": "templates/mine.jinja"}
    document: Any = {
        "spec": {"data": {"sources": [{"format": {"text": {}}}, {"format": {"chat": {"template": named}}}]}}
    }
    found = with_model(document, tmp_path, None)
    assert found["spec"]["data"]["sources"][1]["format"]["chat"] == {"template": MINE}
    assert document["spec"]["data"]["sources"][1]["format"]["chat"]["template"] is named, "not changed in place"
    where = r"^spec\.data\.sources\[1\]\.format\.chat\.template"
    for template, sentence in (
        ({"path": "no.jinja"}, r"\.path: no\.jinja cannot be read \(No such file or directory\); give a file with"),
        ({"file": "x"}, r": give a text with the template, or an object with the one member path, a file"),
    ):
        document["spec"]["data"]["sources"][1] = {"format": {"chat": {"template": template}}}
        with pytest.raises(InvalidRun, match=where + sentence):
            with_model(document, tmp_path, None)

"""The chat template of a trained model: that of its data is used by every command and exported."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from halcyon.checkpoint.opening import entry_of
from halcyon.data.formats.template import DEFAULT_TEMPLATE
from halcyon.huggingface.chat_template import chat_template, template_of_run, template_to_export
from halcyon.huggingface.exporting import export_model
from halcyon.huggingface.root import StoredModel, stored_model
from halcyon.storage.store import Store
from tests.trainer.data.formats.standin import MarkedBytes
from tests.trainer.huggingface.folders import imported, llama_tensors, store_of, write_folder

MINE, OTHER, OF_FILES = "mine {{ add_generation_prompt }}", "it begins no turn", "of files"
FILES = {"chat_template.jinja": OF_FILES.encode()}
TOKENIZER: Any = MarkedBytes()


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


def test_a_root_answers_with_the_template_of_its_data_and_exports_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = tmp_path / "root"
    imported(write_folder(tmp_path / "model", llama_tensors()), root)
    assert chat_template(str(root)) is None

    def trained_on_chat(store: Store, entry: Any, **options: Any) -> StoredModel:
        found = stored_model(store, entry, **options)
        assert found.data == {}
        return StoredModel(**{**vars(found), "data": data({"chat": {"template": MINE}})})

    monkeypatch.setattr("halcyon.huggingface.chat_template.stored_model", trained_on_chat)
    assert chat_template(str(root)) == MINE
    export_model(trained_on_chat(store_of(root), entry_of(store_of(root), None)), store_of(tmp_path / "out"))
    assert chat_template(f"hf:{tmp_path / 'out'}") == MINE

"""Images in conversations: pixels, files of strangers, tokens, and the rows of a batch."""

from __future__ import annotations

import base64
import dataclasses
import io
import json
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from halcyon.checkpoint.layout import flatten
from halcyon.data import image
from halcyon.data.formats import build_formatter
from halcyon.data.image import pixels
from halcyon.data.named_files import BadFile
from halcyon.data.open import inspect_dataset
from halcyon.data.sources import Access, SourceRow
from halcyon.host.errors import BadConfiguration
from halcyon.inference.chat import ChatPrompts
from halcyon.step.program import build_program
from halcyon.step.state import initial_state
from halcyon.tokenizer import load
from halcyon_api.spec.model import read_model
from halcyon_api.spec.model_shape import ImageShape
from halcyon_api.spec.sources import FormatSpec
from halcyon_api.training_run import TrainingRunSpec
from halcyon_api.validation import find_problems
from tests.arrays import load_arrays
from tests.parity.pixels import CASES, FILE, SIDE, SQUARES, file_of
from tests.trainer.support.images import MARKS, TEMPLATE, TEMPLATES, TOKENIZER, conversations, picture, sections
from tests.trainer.support.meshes import mesh_of

READER = load(TOKENIZER)
RED = picture((220, 30, 20))
FAMILIES = ("gemma3", "qwen2")


@pytest.mark.parametrize("name", [*CASES, *SQUARES])
def test_pixels_are_those_of_transformers(name: str) -> None:
    """Its processor of Qwen makes squares of squares only."""
    found = pixels(file_of(name), SIDE, cubic=name in SQUARES)
    assert found.dtype == np.uint8
    assert np.abs(np.moveaxis(found, 2, 0) / 127.5 - 1 - load_arrays(FILE)[name]).max() < 1e-6


def test_a_photo_is_turned_as_its_file_says() -> None:
    buffer, exif = io.BytesIO(), Image.Exif()
    exif[0x0112] = 6
    half = np.zeros((20, 10, 3), np.uint8)
    half[:10] = 255
    Image.fromarray(half).save(buffer, "PNG", exif=exif)
    found = pixels(buffer.getvalue(), 8)
    assert (found[:, :3].max(), found[:, 5:].min()) == (0, 255), "the upper half is to the right"


def bomb(width: int, height: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("1", (width, height)).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("content", "what"),
    [
        (bomb(8000, 6000), "has 48,000,000 pixels; the limit is 40,000,000"),
        (bomb(20_000, 20_000), "is no image that can be read"),
        (bytes(image.MOST_BYTES + 1), "has 33,554,433 bytes; the limit is 33,554,432"),
        (RED[:200], "is no image that can be read"),
        (b"<svg/>", "is no image that can be read"),
        (b"", "is no image that can be read"),
    ],
    ids=["pixels", "warning", "bytes", "cut", "svg", "nothing"],
)
def test_a_bomb_is_told_with_its_limit(content: bytes, what: str) -> None:
    with pytest.raises(BadFile, match=what) as caught:
        pixels(content, 8)
    assert "\n" not in str(caught.value)


def sight(folder: Path, family: str = "gemma3", **more: Any) -> ImageShape:
    shape = read_model(sections(folder, family)["model"]).sight
    assert shape is not None
    return dataclasses.replace(shape, **more)


def documents(folder: Path, parts: list[Any], template: str | None = None, family: str = "gemma3") -> np.ndarray:
    form = FormatSpec.model_validate({"chat": {"template": template or TEMPLATES[family]}})
    access = Access(pause_seconds=0)
    formatter = build_formatter(form, READER, where="format", access=access, sight=sight(folder / "model", family))
    messages = [{"role": "user", "content": parts}, {"role": "assistant", "content": "red"}]
    return formatter([SourceRow(f"{folder}/rows.jsonl", 3, {"messages": messages})])[0].tokens


@pytest.mark.parametrize("family", FAMILIES)
def test_a_document_has_the_tokens_of_its_images_and_their_pixels(tmp_path: Path, family: str) -> None:
    (tmp_path / "a.png").write_bytes(RED)
    uri = f"data:image/png;base64,{base64.b64encode(RED).decode()}"
    parts = [{"type": "image", "path": "a.png"}, {"type": "image_url", "image_url": uri}]
    found = documents(tmp_path, parts, family=family)
    images, count = found[:2]
    text = found[2 : 2 + count]
    special = READER.special_tokens
    begin, token, end = (special[name] for name in MARKS[family])
    assert images == 2
    assert (text == token).sum() == 8
    starts = np.flatnonzero(text == begin)
    assert all((text[at + 1 : at + 5] == token).all() and text[at + 5] == end for at in starts)
    breaks = READER.encode("\n\n").tolist()
    assert (text[starts[0] - len(breaks) : starts[0]].tolist() == breaks) == (family == "gemma3")
    seen = found[2 + count :].astype("<u2").view(np.uint8).reshape(2, 16, 16, 3)
    assert (seen == pixels(RED, 16, cubic=family == "qwen2")).all()


@pytest.mark.parametrize(
    ("part", "what"),
    [
        ({"type": "image", "image": "../a.png"}, "an image '../a.png' at place 0 that is not below the folder"),
        ({"type": "image", "image": "/etc/passwd"}, "not below the folder"),
        ({"type": "image_url", "image_url": {"url": "http://169.254.169.254/a.png"}}, "not below the folder"),
        ({"type": "image", "image": "none.png"}, "cannot be read"),
        ({"type": "image", "image": "svg"}, "is no image that can be read"),
        ({"type": "image", "image": "data:image/png;base64,?"}, "is no data: URI of an image in base64"),
        ({"type": "image", "image": "data:text/html,<a>"}, "is no data: URI of an image in base64"),
        ({"type": "image"}, "is neither a path nor bytes"),
        ({"type": "image", "image": 7}, "is neither a path nor bytes"),
    ],
)
def test_a_row_with_a_bad_image_is_named(tmp_path: Path, part: dict[str, Any], what: str) -> None:
    (tmp_path / "svg").write_text("<svg/>")
    with pytest.raises(BadConfiguration, match=what) as caught:
        documents(tmp_path, [part])
    assert str(caught.value).startswith("format.chat.messagesField: row 3 (counted from 0) of ")
    assert "\n" not in str(caught.value)


def test_images_that_no_one_would_see_are_refused(tmp_path: Path) -> None:
    seen = {"type": "image", "image": RED}
    with pytest.raises(BadConfiguration, match=r"has 3 images, more than 2; .* raise spec.model.vision.images"):
        documents(tmp_path, [seen] * 3)
    with pytest.raises(BadConfiguration, match="has 1 images, and the template prints 0 times <start_of_image>"):
        documents(tmp_path, [seen], TEMPLATE.replace("'<start_of_image>'", "'<image>'"))
    with pytest.raises(BadConfiguration, match="has a video at place 0, which no model sees"):
        documents(tmp_path, [{"type": "video", "video": "a.mp4"}], family="qwen2")
    form = FormatSpec.model_validate({"chat": {"template": TEMPLATE}})
    row = {"messages": [{"role": "user", "content": [seen]}, {"role": "assistant", "content": "a"}]}
    with pytest.raises(
        BadConfiguration, match=r"has an image at place 0, and the model sees none; .*spec.model.vision"
    ):
        build_formatter(form, READER, where="format")([SourceRow("a", 0, row)])
    with pytest.raises(BadConfiguration, match="message 0 has an image, and the model sees none"):
        ChatPrompts(READER, TEMPLATE).seen(row["messages"][:1])
    with pytest.raises(BadConfiguration, match="no special token <image_soft_token> with the id that the model knows"):
        build_formatter(form, READER, where="format", sight=sight(tmp_path, image_token_index=5))


def spec_of(folder: Path, source: dict[str, Any], family: str = "gemma3", **more: Any) -> TrainingRunSpec:
    return TrainingRunSpec.model_validate(
        {
            "accelerator": {"type": "cpu"},
            **sections(folder / "model", family),
            "data": {"sources": [source], "validation": {"fraction": 0.25}},
            "optimizer": {"adamw": {}, "learningRate": 0.01},
            "trainer": {"steps": 3, "batchSize": 4, "sequenceLength": 24},
            "checkpoint": {"root": f"file://{folder}/root"},
            **more,
        }
    )


def test_a_batch_has_each_text_with_its_own_images(tmp_path: Path) -> None:
    """From files beside jsonl, and from columns of parquet as `datasets` writes them."""
    source = conversations(tmp_path / "rows", 8)
    rows = [json.loads(line) for line in (tmp_path / "rows" / "rows.jsonl").read_text().splitlines()]
    colours = [row["messages"][1]["content"] for row in rows]
    files = [(tmp_path / "rows" / f"{colour}.{number}").read_bytes() for number, colour in enumerate(colours)]
    asked = [
        [
            {"role": "user", "content": [{"type": "text", "text": "Which"}, {"type": "image", "text": None}]},
            {"role": "assistant", "content": [{"type": "text", "text": colour}]},
        ]
        for colour in colours
    ]
    table = pa.table({"messages": asked, "images": [[{"bytes": file, "path": None}] for file in files]})
    pq.write_table(table, tmp_path / "rows.parquet")
    other = {"name": "seen", "parquet": {"paths": [f"{tmp_path}/rows.parquet"]}, "format": source["format"]}
    found = []
    for number, one in enumerate((source, other)):
        dataset, _ = inspect_dataset(spec_of(tmp_path / str(number), one), process="test")
        examples = dataset.examples(dataset.train_rows(0))
        assert examples.images is not None
        assert examples.images.shape == (4, 2, 16, 16, 3)
        for targets, weights, seen in zip(examples.targets, examples.weights, examples.images, strict=True):
            said = READER.decode([token for token, weight in zip(targets, weights, strict=True) if weight])
            colour = ("red", "green", "blue", "grey").index(said.removesuffix("<|assistant_end|>"))
            assert seen[0].mean((0, 1)).argmax() == colour or colour == 3
            assert seen[1].max() == 0
        found.append(examples)
    assert (found[0].images == found[1].images).all()
    assert (found[0].tokens == found[1].tokens).all()
    assert found[0].padded_to(6).images.shape == (6, 2, 16, 16, 3)


def trained(
    folder: Path, microbatches: int = 1, lora: dict[str, Any] | None = None, mesh: Any = None, family: str = "gemma3"
) -> Any:
    """The losses of two steps, and which parameters they changed; the first parameters are those of one device."""
    trainer = {"steps": 3, "batchSize": 4, "sequenceLength": 24, "microbatches": microbatches}
    more = {} if lora is None else {"adapter": {"lora": lora}}
    rows = conversations(folder / "rows", 8, family)
    spec = spec_of(folder, rows, family, trainer=trainer, objective={"finetune": {}}, **more)
    dataset, _ = inspect_dataset(spec, process="test")
    rows = {name: one for name, one in vars(dataset.examples(dataset.train_rows(0))).items() if one is not None}
    parts = {name: jnp.asarray(one.reshape(microbatches, -1, *one.shape[1:])) for name, one in rows.items()}
    first, program = (build_program(spec, READER.vocab_size, mesh_of(**sizes)) for sizes in ({}, mesh or {}))
    before = state = jax.tree.map(np.asarray, initial_state(first.build_state, first.template))
    losses = []
    with program.tracing():
        step = jax.jit(program.train_step)
        for _ in range(2):
            state, metrics = step(state, parts, jnp.zeros(program.mesh.size, jnp.int32))
            losses.append(float(metrics.loss))
    leaves = zip(flatten(before.model), flatten(state.model), strict=True)
    return losses, {one.path: not np.array_equal(one.value, np.asarray(other.value)) for one, other in leaves}


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(
    "mesh", [{"fsdp": 2}, pytest.param({"data": 2, "tensor": 2}, marks=pytest.mark.variant)], ids=str
)
def test_losses_on_a_mesh_and_with_microbatches_are_those_of_one_device(
    tmp_path: Path, mesh: dict[str, int], family: str
) -> None:
    one, changed = trained(tmp_path / "one", family=family)
    assert all(changed.values()), "the encoder is trained"
    np.testing.assert_allclose(trained(tmp_path / "mesh", 2, mesh=mesh, family=family)[0], one, rtol=0, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("family", ["gemma3", pytest.param("qwen2", marks=pytest.mark.variant)])
def test_an_adapter_of_an_encoder_is_trained_alone(tmp_path: Path, family: str) -> None:
    _, changed = trained(tmp_path, lora={"rank": 2}, family=family)
    assert any(path.startswith("encoder.") for path, is_trained in changed.items() if is_trained)
    assert all(is_trained == (".adapter." in path) for path, is_trained in changed.items())


def test_what_a_model_that_sees_cannot_do_is_told_before_a_run(tmp_path: Path) -> None:
    source = {"name": "a", "jsonl": {"paths": ["a.jsonl"]}, "format": {"chat": {"template": TEMPLATE}}}
    assert find_problems(spec_of(tmp_path, source)) == ()
    assert find_problems(spec_of(tmp_path, source, objective={"finetune": {}})) == ()
    split = spec_of(tmp_path, source, mesh={"ici": {"context": 2}}, accelerator={"type": "cpu", "topology": "1x2"})
    told = {problem.field: problem.message for problem in find_problems(split)}
    assert told["spec.mesh.ici.context"].startswith("with model.vision a conversation is whole")
    packed = spec_of(tmp_path, source | {"layout": {"bestFit": {}}})
    assert "spec.data.sources[a].layout" in [problem.field for problem in find_problems(packed)]
    text = source | {"format": {"text": {}}, "layout": {"bestFit": {}}}
    assert find_problems(spec_of(tmp_path, text)) == ()

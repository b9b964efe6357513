"""Text after images: the engine, the library and the server see them as training does."""

from __future__ import annotations

import base64
import io
import json
from pathlib import Path
from typing import Any

import haliax as hax
import jax
import numpy as np
import openai
import pytest
from PIL import Image
from typer.testing import CliRunner

import halcyon
from halcyon.commands.main import app
from halcyon.data.image import pixels
from halcyon.evals.benchmarks import BENCHMARKS
from halcyon.evals.runner import Runner
from halcyon.host.errors import BadConfiguration
from halcyon.inference import Engine, Sampling
from halcyon.inference.chat import ChatPrompts
from halcyon.inference.sequence import Sequence
from halcyon.models import CausalLM, build_model
from halcyon.serving.limits import Limits
from halcyon.serving.served import Served, Source
from halcyon.tokenizer import load
from halcyon_api.spec.model import read_model
from tests.trainer.serving.running import running
from tests.trainer.support.images import TEMPLATE, TEMPLATES, TOKENIZER, sections

READER = load(TOKENIZER)


def noise(seed: int) -> bytes:
    """A file whose patches all differ, so that the order of its tokens counts."""
    file = io.BytesIO()
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (16, 16, 3), np.uint8)).save(file, "PNG")
    return file.getvalue()


ONE, OTHER = noise(1), noise(2)
TOKENS, LENGTH = 12, 160
LAYERS = ["sliding_attention", "full_attention"]


@pytest.fixture(scope="module", params=["gemma3", "qwen2"])
def model(request: pytest.FixtureRequest) -> CausalLM:
    sizes = hax.Axis("vocab", READER.vocab_size), hax.Axis("position", LENGTH)
    layers = {"gemma3": 7, "qwen2": 2}[request.param]  # the sixth one of Gemma has no window
    spec = read_model({**sections(None, request.param)["model"], "numHiddenLayers": layers})
    small = build_model(spec, *sizes, dtype="float32", key=jax.random.key(1))
    return jax.tree.map(lambda x: 4 * x if x.ndim > 2 else x, small)  # else attention is nearly even


def uri(data: bytes) -> str:
    return f"data:image/png;base64,{base64.b64encode(data).decode()}"


def asked(*images: bytes, before: str = "") -> Any:
    """A question about some images."""
    parts = [{"type": "image_url", "image_url": {"url": uri(image)}} for image in images]
    return [{"role": "user", "content": [{"type": "text", "text": f"{before}Which"}, *parts]}]


def template(model: CausalLM) -> str:
    return TEMPLATES["qwen2" if model.sight is not None and model.sight.cubic else "gemma3"]


def seen(model: CausalLM, messages: list[dict[str, Any]]) -> tuple[np.ndarray, np.ndarray | None]:
    return ChatPrompts(READER, template(model), sight=model.sight).seen(messages)


def whole(
    model: CausalLM, ids: np.ndarray, images: np.ndarray | None, count: int = TOKENS, length: int = LENGTH
) -> tuple[list[int], list[float]]:
    """The most likely tokens after a prompt and their log probabilities, by the whole model without a cache."""
    found, log_probs = ids.tolist(), list[float]()
    for _ in range(count):
        row = np.pad(found, (0, length - len(found)))  # what comes later changes nothing
        logits = halcyon.logits(model, row[None], images=None if images is None else images[None])
        last = np.asarray(logits[0, len(found) - 1], np.float64)
        found.append(int(np.argmax(last[: READER.vocab_size])))
        log_probs.append(float(last[found[-1]] - np.log(np.exp(last).sum())))
    return found[len(ids) :], log_probs


@pytest.mark.parametrize("before", ["", "a long text before the image, " * 3], ids=["short", "cut"])
def test_texts_of_a_batch_are_those_of_the_whole_model(model: CausalLM, before: str) -> None:
    """Two images, one, another one in its place, and none, all at once; the second prompts' first chunk would end in an
    image."""
    prompts = [seen(model, asked(*images, before=before)) for images in ((ONE, OTHER), (ONE,), (OTHER,), (), (ONE,))]
    engine = Engine(model, slots=3, length=LENGTH, tokens=READER.vocab_size)
    numbers = [engine.add(Sequence(ids, Sampling(TOKENS, temperature=0.0), images=images)) for ids, images in prompts]
    found: dict[int, list[tuple[int, float]]] = {number: [] for number in numbers}
    while engine.unfinished:
        for token in engine.step():
            found[token.sequence].append((token.id, token.log_prob))
    for number, prompt in zip(numbers, prompts, strict=True):
        tokens, log_probs = whole(model, *prompt)
        assert [token for token, _ in found[number]] == tokens
        np.testing.assert_allclose([log_prob for _, log_prob in found[number]], log_probs, atol=2e-6)
    assert found[numbers[1]] != found[numbers[2]], "the image decides"


def test_an_image_may_have_more_tokens_than_a_chunk() -> None:
    room = hax.Axis("position", 360)
    given = sections(None)["model"]
    spec = read_model({**given, "layerTypes": LAYERS, "vision": {**given["vision"], "tokensPerSide": 17}})
    large = build_model(spec, hax.Axis("vocab", READER.vocab_size), room, dtype="float32", key=jax.random.key(1))
    ids, images = seen(large, asked(ONE))
    engine = Engine(large, slots=1, tokens=READER.vocab_size)
    engine.add(Sequence(ids, Sampling(1, temperature=0.0), images=images))
    found = [token.log_prob for _ in range(8) for token in engine.step()]
    np.testing.assert_allclose(found, whole(large, ids, images, 1, room.size)[1], atol=2e-6)


def test_a_chunk_never_ends_inside_of_an_image(model: CausalLM) -> None:
    ids, images = seen(model, asked(ONE, ONE, before="x" * 200))
    assert images is not None
    assert model.sight is not None
    is_image = ids == model.sight.image_token_index
    for shift in range(70):
        sequence = Sequence(np.concatenate((ids[:1].repeat(shift), ids)), Sampling(1), images=images)
        sequence.is_image = np.concatenate((np.zeros(shift, bool), is_image))
        while not sequence.is_decoding:
            assert len(sequence.chunk)
            sequence.computed += len(sequence.chunk)
            inside = sequence.is_image[sequence.computed - 1 : sequence.computed + 1]
            assert len(inside) < 2 or not inside.all()


def test_the_server_and_the_library_write_the_same(model: CausalLM) -> None:
    settings: dict[str, Any] = {"template": template(model), "max_tokens": TOKENS, "temperature": 0.0}
    (found,) = halcyon.generate(model, READER, [asked(ONE)], **settings)
    ids, images = seen(model, asked(ONE))
    assert images is not None
    assert model.sight is not None
    assert (images[0] == pixels(ONE, model.sight.image_size, cubic=model.sight.cubic)).all()
    text, _ = whole(model, ids, images)
    assert list(found.tokens) == text[: len(found.tokens)]
    prompts = ChatPrompts(READER, template(model), sight=model.sight)
    with running(Served("eye", model, READER, prompts), Limits()) as server:
        client = server.openai()
        settings: dict[str, Any] = {"model": "eye", "max_tokens": TOKENS, "temperature": 0.0}
        assert (client.models.retrieve("eye").model_extra or {})["max_images"] == 2
        told = client.chat.completions.create(messages=asked(ONE), n=2, **settings)
        assert [choice.message.content for choice in told.choices] == [found.text] * 2
        server.wait_until_idle()
        for url in ("http://169.254.169.254/a.png", "file:///etc/passwd", "data:text/html,a", uri(b"none")):
            named: Any = [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": url}}]}]
            with pytest.raises(openai.BadRequestError, match=r"has an image.* at place 0 that is"):
                client.chat.completions.create(messages=named, **settings)
        token = [model.sight.image_token_index]
        begun: Any = [*asked(ONE), {"role": "assistant", "content": "", "token_ids": token}]
        with pytest.raises(openai.BadRequestError, match="token_ids has the token of an image"):
            client.chat.completions.create(messages=begun, extra_body={"continue_final_message": True}, **settings)
        with pytest.raises(openai.BadRequestError, match="has 3 images, more than 2"):
            client.chat.completions.create(messages=asked(ONE, ONE, ONE), **settings)


def test_the_first_message_of_a_chat_in_the_terminal_has_an_image(
    model: CausalLM, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Source, "read", lambda *_: (model, READER))
    (tmp_path / "a.png").write_bytes(ONE)
    (tmp_path / "chat.jinja").write_text(template(model))

    def printed(image: str) -> Any:
        options = ["--template", str(tmp_path / "chat.jinja"), "--max-tokens", "3", "--temperature", "0"]
        given = ["chat", "hf:eye", "--image", str(tmp_path / image), *options]
        return CliRunner().invoke(app, given, input="Which\nSo\n/new\nWhich\n")

    messages: Any = [{"role": "user", "content": [{"type": "image", "image": ONE}, {"type": "text", "text": "Which"}]}]
    wanted = []
    for _ in range(2):
        found = halcyon.generate(model, READER, [messages], template=template(model), max_tokens=3, temperature=0.0)
        wanted.append(found[0].text)
        messages = [*messages, {"role": "assistant", "content": wanted[-1]}, {"role": "user", "content": "So"}]
    assert printed("a.png").stdout == "".join(f"{text}\n\n" for text in (*wanted, wanted[0]))
    missing = printed("b.png")
    assert (missing.exit_code, "b.png" in missing.output, missing.output.count("\n")) == (80, True, 1)
    bad = printed("chat.jinja")
    assert bad.output.endswith(
        "has an image at place 0 that is no image that can be read; give a png, jpeg, webp, gif or bmp file\n"
    )


def test_questions_of_tasks_have_images(model: CausalLM, tmp_path: Path) -> None:
    """The same question about other images; answers of one token and of two, and a text."""
    (tmp_path / "one.png").write_bytes(ONE)
    choices = {"text": ["a", "b", "c"], "label": ["A", "B", "CD"]}
    asks = {"question": "Which", "choices": choices, "answerKey": "B", "answer": "#### 1"}
    rows = [asks | {"image": "one.png"}, asks | {"images": [uri(OTHER)]}, asks]
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    runner = Runner(model, READER, ChatPrompts(READER, template(model), sight=model.sight))
    _, answers = runner.run(BENCHMARKS["arc-easy"].read(path))
    for answer, images in zip(answers, ((ONE,), (OTHER,), ()), strict=True):
        listed = "Question: Which\n- a=A\n- b=B\n- c=CD\n\nAnswer with the letter of the right choice only."
        parts = [{"type": "image", "image": image} for image in images]
        ids, pixels_of = seen(model, [{"role": "user", "content": [*parts, {"type": "text", "text": listed}]}])
        wanted = []
        for label in choices["label"]:
            text = READER.encode(label)
            assert len(text) == len(label)
            row = np.pad(np.concatenate((ids, text)), (0, LENGTH - len(ids) - len(text)))
            logits = halcyon.logits(model, row[None], images=None if pixels_of is None else pixels_of[None])[0]
            logs = np.asarray(jax.nn.log_softmax(logits))[len(ids) - 1 :]
            wanted.append(logs[np.arange(len(text)), text].sum())
        np.testing.assert_allclose(answer.facts["logLikelihoods"], wanted, atol=1e-5)
    _, (answer,) = runner.run(BENCHMARKS["gsm8k"].read(path, 1))
    question = [{"role": "user", "content": [{"type": "image", "image": ONE}, {"type": "text", "text": "Which"}]}]
    room = LENGTH - len(seen(model, question)[0])
    (found,) = halcyon.generate(model, READER, [question], template=template(model), max_tokens=room, temperature=0.0)
    assert answer.facts["text"] == found.text
    with pytest.raises(BadConfiguration, match="a question with an image needs a chat template"):
        Runner(model, READER).run(BENCHMARKS["gsm8k"].read(path))
    path.write_text(json.dumps(asks | {"image": "../one.png"}))
    with pytest.raises(BadConfiguration, match=r"rows.jsonl line 1: the field image is neither bytes nor a file below"):
        BENCHMARKS["gsm8k"].read(path)
    path.write_text(json.dumps(asks | {"image": "one.png", "question": "Which" * 50}))
    with pytest.raises(BadConfiguration, match=r"1 of \d+ tokens are scored, and the model has 160 positions"):
        runner.run(BENCHMARKS["arc-easy"].read(path))


def test_a_model_without_an_encoder_refuses_an_image() -> None:
    prompts = ChatPrompts(READER, TEMPLATE)
    with pytest.raises(BadConfiguration, match="message 0 has an image, and the model sees none"):
        prompts.seen(asked(ONE))

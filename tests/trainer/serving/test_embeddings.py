"""Vectors of texts, by the real client, beside texts that are computed."""

from __future__ import annotations

import threading
from types import SimpleNamespace

import haliax as hax
import jax
import numpy as np
import openai
import pytest
from typer.testing import CliRunner

from halcyon.commands.main import app
from halcyon.inference import Sampling
from halcyon.inference.sequence import Output, Sequence
from halcyon.models import Inputs, build_model
from halcyon.models.pooling import Pooling
from halcyon.serving.embeddings import Embedder
from halcyon.serving.errors import ApiError
from halcyon.serving.limits import Limits
from halcyon.serving.metrics import Metrics
from halcyon.serving.served import Served, Source
from halcyon.serving.worker import Worker
from halcyon.tokenizer import TokenizerDefinition, load
from halcyon_api.spec.model import read_model
from tests.families import SMALL_FAMILIES
from tests.suite.limits import limit
from tests.trainer.serving.running import SETTINGS, Running, running


def _expected(tiny: Served, text: str, pooling: Pooling) -> np.ndarray:
    ids = np.concatenate((tiny.tokenizer.prefix, tiny.tokenizer.encode(text))).astype(np.int32)
    features = tiny.model(Inputs(hax.named(ids[None], ("batch", "position")))).features
    found = np.asarray(features.rearrange(("batch", "position", tiny.model.embed.name)).array)[0]
    vector = found.mean(0) if pooling == "mean" else found[-1]
    return vector / np.linalg.norm(vector)


@pytest.mark.slow
@pytest.mark.parametrize("pooling", ["mean", pytest.param("last", marks=pytest.mark.variant)])
def test_vectors_are_those_of_the_features(tiny: Served, pooling: Pooling) -> None:
    with running(tiny, Limits(choices=3), embedder=Embedder(pooling, 64)) as server:
        client = server.openai()
        stream = client.chat.completions.create(
            model="tiny", messages=[{"role": "user", "content": "hello"}], max_tokens=20, stream=True, seed=1
        )
        texts = ["a b", "Café au lait"]
        found = client.embeddings.create(model="tiny", input=texts)  # the client asks for base64 and decodes it
        assert len(list(stream)) > 2
        for index, (one, text) in enumerate(zip(found.data, texts, strict=True)):
            assert one.index == index
            np.testing.assert_allclose(one.embedding, _expected(tiny, text, pooling), atol=1e-5)
        ids = [*tiny.tokenizer.prefix, *tiny.tokenizer.encode("a b").tolist()]
        plain = client.embeddings.create(model="tiny", input=ids, encoding_format="float")
        np.testing.assert_allclose(plain.data[0].embedding, found.data[0].embedding, atol=1e-6)
        assert (plain.usage.prompt_tokens, plain.usage.total_tokens) == (len(ids), len(ids))
        _refused(server, client)
        server.wait_until_idle()


@pytest.mark.parametrize(
    ("model", "words", "sentence"),
    [
        (
            {"bidirectional": True, "sound": None, "pooling": None},
            (),
            "the model is an encoder, which writes no text; give --embeddings",
        ),
        (
            {"sound": (20, 16), "pooling": None},
            ("--embeddings", "mean"),
            "--embeddings: the model writes down sounds, and no vectors",
        ),
    ],
    ids=["encoder", "whisper"],
)
def test_a_model_is_not_served_for_what_it_cannot(
    model: dict[str, object], words: tuple[str, ...], sentence: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Source, "load", lambda *_: SimpleNamespace(model=SimpleNamespace(**model)))
    monkeypatch.setattr("halcyon.serving.server.bound", lambda *_: None)
    found = CliRunner().invoke(app, ["serve", "hf:none", "--port", "0", *words])
    assert found.exit_code != 0
    assert sentence in found.output


@pytest.mark.parametrize("pooling", ["cls", pytest.param("mean", marks=pytest.mark.variant)])
def test_an_encoder_gives_the_features_of_a_text_without_padding(pooling: Pooling) -> None:
    """Its program has 32 positions, and a text fewer: the tokens see both sides, and none of them the padding."""
    tokenizer = load(TokenizerDefinition(kind="byte"))
    sizes = hax.Axis("vocab", tokenizer.vocab_size), hax.Axis("position", 48)
    model = build_model(read_model(SMALL_FAMILIES["modernBert"]), *sizes, dtype="float32", key=jax.random.key(0))
    with running(Served("eye", model, tokenizer, None), Limits(), embedder=Embedder(pooling, 48)) as server:
        client = server.openai()
        ids = np.array([*tokenizer.prefix, *b"a b c", tokenizer.eos_id], np.int32)
        features = model.states(Inputs(hax.named(ids[None], ("batch", "position")))).features
        rows = np.asarray(features.rearrange(("batch", "position", "embed")).array)[0]
        vector = rows.mean(0) if pooling == "mean" else rows[0]
        found = client.embeddings.create(model="eye", input="a b c")
        np.testing.assert_allclose(found.data[0].embedding, vector / np.linalg.norm(vector), atol=1e-5)
        with pytest.raises(openai.NotFoundError, match="is an encoder, which writes no text; use /v1/embeddings"):
            client.completions.create(model="eye", prompt="a")
        server.wait_until_idle()


def test_a_call_that_was_cancelled_leaves_the_engine_alive(tiny: Served) -> None:
    """As when a client goes away before its vector is computed."""
    worker, gate, ran = Worker(tiny, SETTINGS, Limits(), Metrics()), threading.Event(), list[str]()
    worker.start()
    try:
        first = worker.call(lambda: gate.wait(limit(60)))
        second = worker.call(lambda: ran.append("second"))
        assert second.cancel()
        gate.set()
        assert first.result(limit(60))
        assert worker.call(lambda: "third").result(limit(60)) == "third"
        assert not ran
        assert worker.fault == ""
    finally:
        worker.stop(limit(30))
    with pytest.raises(ApiError, match="the server ends"):
        worker.call(lambda: "fourth").result(limit(60))


@pytest.mark.slow
def test_calls_that_follow_one_another_leave_time_for_texts(tiny: Served) -> None:
    worker, outputs, over = Worker(tiny, SETTINGS, Limits(), Metrics()), list[Output](), threading.Event()

    def again() -> None:
        if not over.is_set():
            worker.call(again)

    def push(output: Output) -> None:
        outputs.append(output)
        if output.is_last:
            over.set()

    worker.start()
    try:
        again()
        worker.reserve(1)
        worker.submit([Sequence(np.array([1], np.int32), Sampling(4, temperature=0.0), push=push)])
        assert over.wait(limit(60))
        assert outputs[-1].fault is None
    finally:
        over.set()
        worker.stop(limit(30))


def _refused(server: Running, client: openai.OpenAI) -> None:
    for body, message in (
        ({"input": ["a"] * 4}, "input: it has 4 texts; give 1 to 3"),
        ({"input": []}, "input: it has 0 texts; give 1 to 3"),
        ({"input": [[]]}, "input: token ids are integers of 0 to"),
        ({"input": "a b c " * 60}, "input: a text has"),
        ({"input": "a", "dimensions": 3}, "dimensions: the vectors of this model have"),
    ):
        with pytest.raises(openai.BadRequestError, match=message):
            client.embeddings.create(model="tiny", **body)  # pyright: ignore[reportArgumentType, reportCallIssue]
    with pytest.raises(openai.NotFoundError, match="there is no model 'other'"):
        client.embeddings.create(model="other", input="a")
    assert (
        server.metrics.registry.get_sample_value(
            "halcyon_serving_requests_total", {"endpoint": "embeddings", "outcome": "completed"}
        )
        == 2
    )


@pytest.mark.slow
def test_a_server_without_embeddings_says_how_to_start_it(server: Running) -> None:
    with pytest.raises(openai.NotFoundError, match="start it with --embeddings mean"):
        server.openai().embeddings.create(model="tiny", input="a")

"""What is said in a file that a real client sends, beside `halcyon transcribe`."""

from __future__ import annotations

import contextlib
import io
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import haliax as hax
import httpx
import jax
import openai
import pytest
import soundfile

from halcyon.inference.speech import Transcriber, written_texts
from halcyon.models import build_model
from halcyon.serving.access import Keys
from halcyon.serving.limits import Limits
from halcyon.serving.served import Served
from halcyon.serving.service import Preparers
from halcyon.serving.transcriptions import heard
from halcyon.tokenizer import TokenizerDefinition, load
from halcyon_api.spec.model import read_model
from tests.suite.limits import limit
from tests.trainer.serving.running import Running, running
from tests.trainer.support.speech import WHISPER, tone

KEY = "a key of sixteen signs or more".replace(" ", "-")
BYTES = load(TokenizerDefinition(kind="byte"))


def clip(seconds: float) -> bytes:
    file = io.BytesIO()
    soundfile.write(file, tone(16_000, 300, seconds), 16_000, format="flac")
    return file.getvalue()


@pytest.fixture(scope="module")
def hearing() -> Iterator[Running]:
    sizes = hax.Axis("vocab", BYTES.vocab_size), hax.Axis("position", 16)
    model = build_model(read_model(WHISPER), *sizes, dtype="float32", key=jax.random.key(0))
    with running(Served("ear", model, BYTES, None), Limits(form_bytes=100_000), keys=Keys((KEY,))) as server:
        server.worker.call(server.worker.warm_up).result()
        yield server


def test_the_text_is_that_of_the_command(hearing: Running) -> None:
    """A sound of three parts: two are computed together, then one."""
    client, sound = hearing.openai(api_key=KEY), clip(0.5)
    transcriber = Transcriber.of(hearing.worker.served.model, BYTES, "float32")
    ((text, _),) = written_texts(transcriber, [("it", sound)], None)
    assert text
    assert client.audio.transcriptions.create(model="ear", file=("a.flac", sound)).text == text
    plain = client.audio.transcriptions.create(model="ear", file=("a.flac", sound), response_format="text")
    assert plain == f"{text}\n"
    told = client.audio.transcriptions.create(model="ear", file=("a.flac", sound), response_format="verbose_json")
    assert told.segments is not None
    assert [part.start for part in told.segments] == pytest.approx([0, 0.2, 0.4])
    assert [part.end for part in told.segments] == pytest.approx([0.2, 0.4, 0.5])
    assert (" ".join(part.text for part in told.segments), told.duration) == (text, 0.5)
    found = httpx.get(f"{hearing.url}/metrics").text
    assert 'halcyon_serving_requests_total{endpoint="transcriptions",outcome="completed"} 3.0' in found
    hearing.wait_until_idle()


def test_a_sound_that_is_decoded_for_minutes_is_no_fault(hearing: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    begun, gate, service = threading.Event(), threading.Event(), hearing.service

    def slow(*arguments: Any) -> Any:
        begun.set()
        gate.wait(limit(60))
        return heard(*arguments)

    monkeypatch.setattr("halcyon.serving.service.heard", slow)
    with ThreadPoolExecutor() as pool, contextlib.ExitStack() as at_end:
        at_end.callback(gate.set)
        send = hearing.openai(api_key=KEY).audio.transcriptions.create
        answer = pool.submit(send, model="ear", file=("a.flac", clip(0.1)))
        assert begun.wait(limit(60))
        (began,) = (one._began for one in vars(service).values() if isinstance(one, Preparers) and one._began)
        began[next(iter(began))] -= 599
        assert httpx.get(f"{hearing.url}/ready").status_code == 200
        began[next(iter(began))] -= 60
        assert "has been prepared for 6" in httpx.get(f"{hearing.url}/ready").text
        gate.set()
        assert answer.result().text
    hearing.wait_until_idle()


@pytest.mark.parametrize(
    ("fields", "file", "sentence"),
    [
        ({}, b"no sound", "file: the sound is no sound that can be read"),
        ({"language": "en"}, b"", "language: the tokenizer has no token <|startoftranscript|>"),
        ({"language": "English"}, b"", "language: "),
        ({"temperature": "0.5"}, b"", "temperature: "),
        ({"response_format": "srt"}, b"", "response_format: "),
        ({"prompt": "before"}, b"", "prompt: there is no such field; leave it out"),
        ({"model": "eye"}, b"", "there is no model 'eye'"),
        ({}, bytes(200_000), "the body has at most 100000 bytes"),
        ({}, None, "file: the field is missing"),
    ],
)
def test_a_bad_request_is_refused(hearing: Running, fields: dict[str, str], file: bytes | None, sentence: str) -> None:
    files = {"file": ("a.flac", file or clip(0.1))} if file is not None else {"other": ("a", b"")}
    with httpx.Client(headers={"Authorization": f"Bearer {KEY}"}) as client:
        found = client.post(f"{hearing.url}/v1/audio/transcriptions", data=fields, files=files)
    assert found.status_code in (400, 404, 413)
    assert found.json()["error"]["message"].startswith(sentence) or file is None


def test_forms_of_others_are_refused(hearing: Running) -> None:
    url, files = f"{hearing.url}/v1/audio/transcriptions", {"file": ("a.flac", clip(0.1))}
    own = {"Authorization": f"Bearer {KEY}"}
    assert httpx.post(url, files=files).status_code == 401
    assert httpx.post(url, files=files, headers=own | {"Sec-Fetch-Site": "cross-site"}).status_code == 403
    assert httpx.post(url, json={}, headers=own).status_code == 415
    broken = httpx.post(url, content=b"none", headers=own | {"Content-Type": "multipart/form-data"})
    assert broken.status_code == 400
    assert broken.json()["error"]["message"].startswith("the body is no form: ")


def test_such_a_model_writes_no_other_text(hearing: Running) -> None:
    client = hearing.openai(api_key=KEY)
    with pytest.raises(openai.NotFoundError, match="use /v1/audio/transcriptions"):
        client.chat.completions.create(model="ear", messages=[{"role": "user", "content": "a"}])
    with pytest.raises(openai.NotFoundError, match="makes no embeddings"):
        client.embeddings.create(model="ear", input="a")


def test_another_model_hears_nothing(tiny: Served) -> None:
    with running(tiny, Limits()) as server, pytest.raises(openai.BadRequestError, match="not of the family whisper"):
        server.openai().audio.transcriptions.create(model="tiny", file=("a.flac", clip(0.1)))

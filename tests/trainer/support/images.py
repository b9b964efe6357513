"""Images, and a small Gemma 3 and a small Qwen 2.5-VL, for tests of runs."""

from __future__ import annotations

import base64
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from halcyon.tokenizer import load
from halcyon.tokenizer.bpe import train_bpe

MARKS = {
    "gemma3": ("<start_of_image>", "<image_soft_token>", "<end_of_image>"),
    "qwen2": ("<|vision_start|>", "<|image_pad|>", "<|vision_end|>"),
}
TEMPLATE = """\
{{- bos_token -}}
{%- for message in messages -%}
  {{- '<|user_start|>' if message['role'] == 'user' else '<|assistant_start|>' -}}
  {%- if message['content'] is string -%}{{- message['content'] -}}
  {%- else -%}
    {%- for part in message['content'] -%}
      {{- '<start_of_image>' if part['type'] == 'image' else part['text'] -}}
    {%- endfor -%}
  {%- endif -%}
  {{- '<|user_end|>' if message['role'] == 'user' else '<|assistant_end|>' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- '<|assistant_start|>' -}}{%- endif -%}
"""
TEMPLATES = {"gemma3": TEMPLATE, "qwen2": TEMPLATE.replace("<start_of_image>", "".join(MARKS["qwen2"]))}
VISION: dict[str, Any] = {"numAttentionHeads": 2, "intermediateSize": 10, "tokensPerSide": 2, "images": 2}
TOWERS: dict[str, dict[str, Any]] = {
    "gemma3": {**VISION, "numHiddenLayers": 2, "headDim": 6, "patchSize": 2},
    "qwen2": {**VISION, "numHiddenLayers": 8, "headDim": 8, "patchSize": 4},
}
SMALL = {"numHiddenLayers": 2, "hiddenSize": 16, "intermediateSize": 24, "numAttentionHeads": 2, "headDim": 8}
TEXTS: dict[str, dict[str, Any]] = {"gemma3": {**SMALL, "slidingWindow": 6}, "qwen2": SMALL}
COLOURS = {"red": (220, 30, 20), "green": (20, 200, 40), "blue": (30, 40, 230), "grey": (128, 128, 128)}


TOKENIZER = train_bpe(["halcyon"], 300, (*MARKS["gemma3"], *MARKS["qwen2"]))


def sections(folder: Path | None, family: str = "gemma3") -> dict[str, Any]:
    """`spec.model` and `spec.tokenizer` of a run; the tokenizer is written into the folder, if there is one."""
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "tokenizer.json").write_bytes(TOKENIZER.content)
    token = load(TOKENIZER).special_tokens[MARKS[family][1]]
    return {
        "model": {"family": family, **TEXTS[family], "vision": {**TOWERS[family], "imageTokenIndex": token}},
        "tokenizer": {"tokenizerJson": {"path": f"{folder}/tokenizer.json"}},
    }


def picture(colour: tuple[int, int, int], size: tuple[int, int] = (23, 17), form: str = "PNG") -> bytes:
    """A file: a square of one colour, with some noise."""
    noise = np.random.default_rng(sum(colour)).integers(-15, 15, (size[1], size[0], 3))
    buffer = io.BytesIO()
    Image.fromarray(np.clip(noise + colour, 0, 255).astype(np.uint8)).save(buffer, form)
    return buffer.getvalue()


def conversations(folder: Path, count: int = 24, family: str = "gemma3") -> dict[str, Any]:
    """A source of `spec.data.sources` with this number of conversations about images: in files beside the rows, in
    data: URIs, and in a field of the row."""
    folder.mkdir(parents=True)
    rows: list[dict[str, Any]] = []
    for number in range(count):
        name, colour = list(COLOURS.items())[number % 4]
        data = picture(colour, form=("PNG", "JPEG", "WEBP")[number % 3])
        (folder / f"{name}.{number}").write_bytes(data)
        uri = f"data:image/png;base64,{base64.b64encode(data).decode()}"
        part = ({"type": "image", "image": f"{name}.{number}"}, {"type": "image_url", "image_url": {"url": uri}})
        asked = [{"type": "text", "text": "Which"}, part[number % 2] if number % 5 else {"type": "image"}]
        messages = [{"role": "user", "content": asked}, {"role": "assistant", "content": name}]
        rows.append({"messages": messages, "images": [] if number % 5 else [f"{name}.{number}"]})
    (folder / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\n")
    form = {"chat": {"template": TEMPLATES[family]}}
    return {"name": "seen", "jsonl": {"paths": [str(folder / "rows.jsonl")]}, "format": form}

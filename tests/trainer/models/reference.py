"""Some architectures in NumPy and float64, written from the papers and without code of the trainer.

Parameters are arrays by path, such as ``blocks/attention/query/weight``, with the shapes of the model's parameters.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from haliax import NamedArray

from halcyon_api.spec.families.backpack import BackpackSpec
from halcyon_api.spec.families.gpt2 import Gpt2Section, Gpt2Spec
from halcyon_api.spec.families.hyena import HyenaSpec
from halcyon_api.spec.families.llama import LlamaSpec
from halcyon_api.spec.families.section import ModelSection

Parameters = Mapping[str, np.ndarray]


def named_leaves(tree: Any) -> dict[str, NamedArray]:
    """The arrays of a model, or of a gradient, by path."""
    leaves = jax.tree_util.tree_leaves_with_path(tree, is_leaf=lambda leaf: isinstance(leaf, NamedArray))
    names = [[str(getattr(key, "name", getattr(key, "idx", ""))) for key in path] for path, _ in leaves]
    return {
        "/".join(name for name in path if name != "stacked"): leaf
        for path, (_, leaf) in zip(names, leaves, strict=True)
    }


def parameters_of(model: Any) -> dict[str, np.ndarray]:
    """The parameters of a model in float64."""
    return {path: np.asarray(leaf.array, np.float64) for path, leaf in named_leaves(model).items()}


def softmax(x: np.ndarray) -> np.ndarray:
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def rms_norm(x: np.ndarray, scale: np.ndarray, epsilon: float) -> np.ndarray:
    return x / np.sqrt((x**2).mean(-1, keepdims=True) + epsilon) * scale


def layer_norm(x: np.ndarray, scale: np.ndarray, shift: np.ndarray, epsilon: float) -> np.ndarray:
    return (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + epsilon) * scale + shift


def rotate(x: np.ndarray, theta: float) -> np.ndarray:
    """RoPE of [length, heads, head size]: each pair is a complex number, multiplied by e^(i position frequency)."""
    length, _, size = x.shape
    turns = np.arange(length)[:, None] * theta ** (-np.arange(0, size, 2) / size)
    z = (x[..., : size // 2] + 1j * x[..., size // 2 :]) * np.exp(1j * turns)[:, None, :]
    return np.concatenate((z.real, z.imag), axis=-1)


def attention(q: np.ndarray, k: np.ndarray, v: np.ndarray, segments: np.ndarray) -> np.ndarray:
    """Attention of one head; each array is [length, size]."""
    scores = q @ k.T / np.sqrt(q.shape[-1])
    position = np.arange(len(q))
    hidden = (position[None, :] > position[:, None]) | (segments[None, :] != segments[:, None])
    return softmax(np.where(hidden, -np.inf, scores)) @ v


def llama_logits(p: Parameters, spec: LlamaSpec, tokens: np.ndarray, segments: np.ndarray) -> np.ndarray:
    """Logits of one sequence: [length] tokens to [length, vocab]."""

    def normed(x: np.ndarray, scale: np.ndarray | None) -> np.ndarray:
        return x if scale is None else rms_norm(x, scale, spec.rms_norm_eps)

    x = normed(p["embedding/weight"][tokens], p.get("embedding_norm/weight"))
    for layer in range(spec.num_hidden_layers):
        w = {path.removeprefix("blocks/"): array[layer] for path, array in p.items() if path.startswith("blocks/")}
        h = rms_norm(x, w["attention_norm/weight"], spec.rms_norm_eps)
        q = np.einsum("le,ekgh->lkgh", h, w["attention/query/weight"]).reshape(len(x), spec.num_attention_heads, -1)
        k = np.einsum("le,ekh->lkh", h, w["attention/key/weight"])
        v = np.einsum("le,ekh->lkh", h, w["attention/value/weight"])
        q, k = rotate(q, spec.rope_theta), rotate(k, spec.rope_theta)
        group = spec.num_attention_heads // spec.key_value_heads
        heads = [
            attention(q[:, head], k[:, head // group], v[:, head // group], segments)
            for head in range(spec.num_attention_heads)
        ]
        output = w["attention/output/weight"].reshape(spec.hidden_size, spec.hidden_size)
        x = x + normed(np.concatenate(heads, axis=-1) @ output, w.get("attention_post_norm/weight"))
        h = rms_norm(x, w["mlp_norm/weight"], spec.rms_norm_eps)
        gate = h @ w["mlp/gate/weight"]
        out = (gate / (1 + np.exp(-gate)) * (h @ w["mlp/up/weight"])) @ w["mlp/down/weight"]
        x = x + normed(out, w.get("mlp_post_norm/weight"))
    head = p["embedding/weight"].T if spec.tie_word_embeddings else p["untied_head/weight"]
    return rms_norm(x, p["norm/weight"], spec.rms_norm_eps) @ head


def gelu(x: np.ndarray) -> np.ndarray:
    return 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))


def gpt2_features(p: Parameters, spec: Gpt2Section, tokens: np.ndarray, segments: np.ndarray) -> np.ndarray:
    """Features of one sequence: [length] tokens to [length, embed]."""
    x = p["embedding/weight"][tokens] + p["positions/weight"][: len(tokens)]
    for layer in range(spec.num_hidden_layers):
        w = {path.removeprefix("blocks/"): array[layer] for path, array in p.items() if path.startswith("blocks/")}
        h = layer_norm(x, w["attention_norm/weight"], w["attention_norm/bias"], spec.layer_norm_epsilon)
        q, k, v = (
            np.einsum("le,ehs->lhs", h, w[f"attention/{part}/weight"]) + w[f"attention/{part}/bias"]
            for part in ("query", "key", "value")
        )
        heads = [attention(q[:, head], k[:, head], v[:, head], segments) for head in range(spec.num_attention_heads)]
        output = w["attention/output/weight"].reshape(spec.hidden_size, spec.hidden_size)
        x = x + np.concatenate(heads, axis=-1) @ output + w["attention/output/bias"]
        h = layer_norm(x, w["mlp_norm/weight"], w["mlp_norm/bias"], spec.layer_norm_epsilon)
        u = gelu(h @ w["mlp/up/weight"] + w["mlp/up/bias"])
        x = x + u @ w["mlp/down/weight"] + w["mlp/down/bias"]
    return layer_norm(x, p["norm/weight"], p["norm/bias"], spec.layer_norm_epsilon)


def gpt2_logits(p: Parameters, spec: Gpt2Spec, tokens: np.ndarray, segments: np.ndarray) -> np.ndarray:
    """Logits of one sequence: [length] tokens to [length, vocab]."""
    return gpt2_features(p, spec, tokens, segments) @ p["embedding/weight"].T


def backpack_logits(p: Parameters, spec: BackpackSpec, tokens: np.ndarray, segments: np.ndarray) -> np.ndarray:
    """Logits of one sequence: [length] tokens to [length, vocab]."""
    w = {path.removeprefix("senses/"): array for path, array in p.items() if path.startswith("senses/")}

    def normed(x: np.ndarray, name: str) -> np.ndarray:
        return layer_norm(x, w[f"{name}/weight"], w[f"{name}/bias"], spec.layer_norm_epsilon)

    def mapped(x: np.ndarray, name: str) -> np.ndarray:
        return np.tensordot(x, w[f"{name}/weight"], 1) + w[f"{name}/bias"]

    embedded = p["embedding/weight"][tokens]
    x = embedded + normed(embedded, "norm")
    x = x + mapped(gelu(mapped(normed(x, "mlp_norm"), "mlp/up")), "mlp/down")
    senses = mapped(gelu(mapped(normed(x, "output_norm"), "sense_mlp/up")), "sense_mlp/down")
    context = gpt2_features(p, spec, tokens, segments)
    query, key = mapped(context, "attention/query"), mapped(context, "attention/key")
    parts = [attention(query[:, s], key[:, s], senses[:, s], segments) for s in range(spec.num_senses)]
    return np.mean(parts, 0) @ p["embedding/weight"].T


def hyena_logits(p: Parameters, spec: HyenaSpec, tokens: np.ndarray, segments: np.ndarray) -> np.ndarray:
    """Logits of one sequence as long as the longest: [length] tokens to [length, vocab]. Convolutions are sums."""
    length, order = len(tokens), spec.hyena_order
    x = p["embedding/weight"][tokens] + p["positions/weight"][:length]
    time = np.arange(length)
    wave = np.exp(-2j * np.pi * 1e-4 * time / length)
    distances = np.stack([time / (length - 1), wave.real, wave.imag], 1)
    decays = np.abs(np.linspace(np.log(0.01) / 1.5, np.log(0.01) / 0.3, (order - 1) * spec.hidden_size))
    for layer in range(spec.num_hidden_layers):
        w = {path.removeprefix("blocks/"): array[layer] for path, array in p.items() if path.startswith("blocks/")}
        long = {path.removeprefix("attention/long_convolution/"): array for path, array in w.items()}
        h = layer_norm(x, w["attention_norm/weight"], w["attention_norm/bias"], spec.layer_norm_epsilon)
        u = np.einsum("le,epc->lpc", h, w["attention/inner/weight"]) + w["attention/inner/bias"]
        taps = w["attention/short_convolution/weight"]
        parts = np.zeros_like(u) + w["attention/short_bias"]
        filters = distances
        for number in range(2):
            filters = filters @ long[f"maps/{number}/weight"] + long[f"maps/{number}/bias"]
            filters = np.sin(long["sine_factor"] * filters)
        filters = np.tensordot(filters, long["maps/2/weight"], 1) + long["maps/2/bias"]
        filters = filters * np.exp(-np.outer(time / (length - 1), decays)).reshape(filters.shape)

        def convolved(u: np.ndarray, kernel: np.ndarray) -> np.ndarray:
            """Both [position, ...]; the kernel's first number is that of distance 0."""
            found = np.zeros_like(u)
            for to in range(length):
                for since in range(to + 1):
                    if segments[since] == segments[to] and to - since < len(kernel):
                        found[to] += kernel[to - since] * u[since]
            return found

        parts = parts + convolved(u, np.moveaxis(taps, -1, 0)[::-1])
        value = parts[:, order]
        for number, other in enumerate(range(order - 1, 0, -1)):
            value = value * parts[:, other]
            value = convolved(value, filters[:, number]) + value * w["attention/long_factor"]
        mixed = gelu(value * parts[:, 0])
        x = x + mixed @ w["attention/output/weight"] + w["attention/output/bias"]
        h = layer_norm(x, w["mlp_norm/weight"], w["mlp_norm/bias"], spec.layer_norm_epsilon)
        x = x + gelu(h @ w["mlp/up/weight"] + w["mlp/up/bias"]) @ w["mlp/down/weight"] + w["mlp/down/bias"]
    return layer_norm(x, p["norm/weight"], p["norm/bias"], spec.layer_norm_epsilon) @ p["embedding/weight"].T


_BY_SECTION: dict[type, Any] = {
    HyenaSpec: hyena_logits,
    LlamaSpec: llama_logits,
    Gpt2Spec: gpt2_logits,
    BackpackSpec: backpack_logits,
}


def logits(p: Parameters, spec: ModelSection, tokens: np.ndarray, segments: np.ndarray) -> np.ndarray:
    """Logits of a batch: [batch, length] to [batch, length, vocab]."""
    return np.stack([_BY_SECTION[type(spec)](p, spec, *row) for row in zip(tokens, segments, strict=True)])


def loss_sum(
    p: Parameters,
    spec: ModelSection,
    tokens: np.ndarray,
    targets: np.ndarray,
    weights: np.ndarray,
    segments: np.ndarray,
) -> float:
    """Sum of weight x cross entropy over the batch, in nats."""
    of_target = np.take_along_axis(softmax(logits(p, spec, tokens, segments)), targets[..., None], axis=-1)[..., 0]
    return float(-(np.log(of_target) * weights).sum())

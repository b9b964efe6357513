"""Makes the goldens beside it: tiny random models, as transformers writes them, with the logits that transformers
computes.

It needs packages that Halcyon does not have; in an environment of its own:

    uv venv /tmp/goldens && uv pip install --python /tmp/goldens torch==2.15.0 transformers==5.23.0 --extra-index-url
    …/whl/cpu /tmp/goldens/bin/python tests/trainer/weights/goldens/make.py [CASE...] /tmp/goldens/bin/python
    tests/trainer/weights/goldens/make.py --check FOLDER GOLDEN     # logits of an export against a golden
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import AutoModelForCausalLM, GPT2Config, LlamaConfig, Qwen3Config

HERE = Path(__file__).parent
CASES = {
    "llama": LlamaConfig(
        vocab_size=70, hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=32, rms_norm_eps=1e-5, rope_parameters={"rope_type": "default", "rope_theta": 500.0},
        tie_word_embeddings=False,
    ),
    "llama-tied": LlamaConfig(
        vocab_size=64, hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=2,
        max_position_embeddings=32,
        tie_word_embeddings=True,
    ),
    "gpt2": GPT2Config(vocab_size=70, n_embd=16, n_layer=2, n_head=2, n_positions=16, tie_word_embeddings=True),
    "qwen3": Qwen3Config(
        vocab_size=320, hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, head_dim=8,
        max_position_embeddings=64, tie_word_embeddings=True,
    ),
}  # fmt: skip
SHARDED = "gpt2"
"""The case in several files."""
WITH_TOKENIZER = "qwen3"
"""The case with a tokenizer: of the bytes, and the tokens that begin and end a document and a turn."""


def write_tokenizer(folder: Path) -> None:
    tokenizer = Tokenizer(
        models.BPE(
            vocab={text: number for number, text in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}, merges=[]
        )
    )
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(["<|endoftext|>", "<|im_start|>", "<|im_end|>"])
    tokenizer.save(str(folder / "tokenizer.json"))
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "<|im_end|>", "pad_token": "<|endoftext|>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings, indent=2))
    (folder / "chat_template.jinja").write_text(
        "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n{% endfor %}"
    )


def main(wanted: list[str]) -> None:
    for number, (name, config) in enumerate(CASES.items()):
        if wanted and name not in wanted:
            continue
        torch.manual_seed(number)
        model = AutoModelForCausalLM.from_config(config, attn_implementation="eager").eval()
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.copy_(
                    parameter + 0.3 * torch.randn_like(parameter)
                )  # biases and norms get random numbers too
        model.save_pretrained(HERE / name, max_shard_size="16KB" if name == SHARDED else "5GB")
        if name == WITH_TOKENIZER:
            write_tokenizer(HERE / name)
        tokens = np.random.default_rng(number).integers(
            0, min(config.vocab_size, 256), (2, 16)
        )  # in a run, only its tokenizer's tokens stay
        np.savez(HERE / name / "logits.npz", tokens=tokens, logits=logits(model, tokens))


def check(folder: str, golden: str) -> None:
    model = AutoModelForCausalLM.from_pretrained(folder, attn_implementation="eager", dtype=torch.float32).eval()
    expected = np.load(Path(golden) / "logits.npz")
    found = logits(model, expected["tokens"])
    error = np.abs(found - expected["logits"]).max() / np.abs(expected["logits"]).max()
    sys.stdout.write(f"{folder}: largest error {error:.2e} of the largest logit\n")
    sys.exit(int(error > 1e-5))


def logits(model: torch.nn.Module, tokens: np.ndarray) -> np.ndarray:
    with torch.no_grad():
        return model(torch.tensor(tokens)).logits.float().numpy()


if __name__ == "__main__":
    check(*sys.argv[2:]) if sys.argv[1:2] == ["--check"] else main(sys.argv[1:])

"""TRL's side of `bench_trl`. Runs in an environment with trl, torch and datasets.

    python trl_child.py MODEL QUESTIONS SETTINGS

MODEL is an exported model, QUESTIONS a file with a question and its answer in each line, SETTINGS a JSON object:
``rows``, ``group``, ``tokens``, ``rate``, ``steps``, ``beta2``, ``deviationEpsilon``. `step_turns` describes the
protocol. The case ``train SEED`` answers with the mean reward of each step, ``sample`` with the times of one call of
``generate``, the number of its tokens included.
"""

from __future__ import annotations

import json
import re
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

_NUMBER = re.compile(r"####\s*(-?\d+)")


def right(prompts: Sequence[str], answers: Sequence[str], references: Sequence[str]) -> list[float]:
    """The rewards on both sides: 1 for the number of the reference after ``####``, else 0."""
    del prompts
    found = [[_NUMBER.search(text) for text in pair] for pair in zip(answers, references, strict=True)]
    return [float(own is not None and known is not None and own[1] == known[1]) for own, known in found]


def main() -> None:
    folder, questions, settings = sys.argv[1], sys.argv[2], json.loads(sys.argv[3])
    answers, sys.stdout = sys.stdout, sys.stderr  # libraries print notes
    import torch
    import transformers
    import trl
    from datasets import Dataset

    rows = [json.loads(line) for line in Path(questions).read_text(encoding="utf-8").splitlines()]
    asked = [[{"role": "user", "content": row["question"]}] for row in rows]
    data = Dataset.from_dict({"prompt": asked, "reference": [row["answer"] for row in rows]})
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder, padding_side="left")
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token

    def loaded() -> Any:
        return transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)

    def reward(completions: list[Any], reference: list[str], **_: Any) -> list[float]:
        return right([], [completion[0]["content"] for completion in completions], reference)

    def train(seed: int) -> dict[str, Any]:
        with tempfile.TemporaryDirectory() as output:
            arguments = trl.GRPOConfig(
                output,
                seed=seed,
                use_cpu=True,
                bf16=False,
                gradient_checkpointing=False,
                report_to=[],
                logging_steps=1,
                save_strategy="no",
                disable_tqdm=True,
                max_steps=settings["steps"],
                per_device_train_batch_size=settings["rows"],
                num_generations=settings["group"],
                max_completion_length=settings["tokens"],
                learning_rate=settings["rate"],
                lr_scheduler_type="constant",
                weight_decay=0.0,
                adam_beta2=settings["beta2"],
                max_grad_norm=1.0,
                beta=0.0,
                loss_type="dapo",
                scale_rewards="group",
            )
            trainer = trl.GRPOTrainer(
                loaded(), reward_funcs=reward, args=arguments, train_dataset=data, processing_class=tokenizer
            )
            trainer.train()
        log = [row for row in trainer.state.log_history if "reward" in row]
        return {"rewards": [row["reward"] for row in log]}

    model = loaded().eval()
    batch = [asked[number // settings["group"]] for number in range(settings["rows"])]
    inputs = tokenizer.apply_chat_template(
        batch, add_generation_prompt=True, return_tensors="pt", return_dict=True, padding=True
    )
    tokens = settings["tokens"]

    @torch.inference_mode()
    def sample() -> dict[str, Any]:
        wall, processor = time.perf_counter(), time.process_time()
        model.generate(
            **inputs, do_sample=True, temperature=1.0, top_k=0, top_p=1.0, min_new_tokens=tokens, max_new_tokens=tokens
        )
        return {"sample": [time.perf_counter() - wall, time.process_time() - processor]}

    facts = f"TRL {trl.__version__}, transformers {transformers.__version__}, torch {torch.__version__}"
    print(json.dumps(facts), file=answers, flush=True)
    for line in sys.stdin:
        case, *seed = line.split()
        print(json.dumps(train(int(*seed)) if case == "train" else sample()), file=answers, flush=True)


if __name__ == "__main__":
    main()

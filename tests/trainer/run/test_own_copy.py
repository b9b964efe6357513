"""The copy of a sharded model on the devices of one process: the same model without padding, which answers the same on
several devices.
"""

from __future__ import annotations

from pathlib import Path

import jax
import numpy as np
import pytest

from halcyon.evals.benchmarks import BENCHMARKS
from halcyon.evals.example import Answer
from halcyon.evals.runner import Runner, Settings
from halcyon.run.benchmarks import _Share
from halcyon.run.own_copy import gathered_bytes, own_copy, own_shapes, tracing_own
from halcyon.step.program import build_program
from halcyon.step.state import initial_state
from halcyon.tokenizer import BYTE, load
from halcyon_api.reading import parse_run
from tests.trainer.evals import samples
from tests.trainer.support.meshes import mesh_of
from tests.trainer.support.process_groups import run_document


@pytest.mark.slow
@pytest.mark.variant
def test_a_copy_answers_alike_on_one_device_and_on_several(tmp_path: Path) -> None:
    spec = parse_run(run_document(tmp_path / "root", topology="1x4", slices=1, sequenceLength=128)).spec
    tokenizer = load(BYTE)
    program = build_program(spec, tokenizer.vocab_size, mesh_of(fsdp=4))
    model = initial_state(program.build_state, program.template).model
    shapes = own_shapes(spec, tokenizer.vocab_size)
    assert (shapes.vocab.size, model.vocab.size) == (tokenizer.vocab_size, -(-tokenizer.vocab_size // 64) * 64)
    easy = BENCHMARKS["arc-easy"].read(samples.lines(tmp_path / "arc.jsonl", samples.ARC_HUB))
    (tmp_path / "words.txt").write_text("bee\n")
    spelling = BENCHMARKS["spelling-bee"].read(tmp_path / "words.txt", 1)
    found = []
    for count in (1, 4):
        copy = own_copy(model, shapes, jax.local_devices()[:count])
        assert {len(leaf.sharding.device_set) for leaf in jax.tree.leaves(copy)} == {count}
        runner = Runner(copy, tokenizer, None, Settings(slots=2))
        with tracing_own():
            found.append((runner.run(easy)[1], runner.run(spelling)[1]))
    (one_easy, one_spelling), (easy_on_four, spelling_on_four) = found
    alone, together = (
        np.concatenate([answer.facts["logLikelihoods"] for answer in answers]) for answers in (one_easy, easy_on_four)
    )
    np.testing.assert_allclose(alone, together, rtol=1e-4)
    assert [answer.facts["text"] for answer in one_spelling] == [answer.facts["text"] for answer in spelling_on_four]
    assert any(answer.facts["tokens"] > 10 for answer in one_spelling)


def test_a_share_keeps_what_a_result_needs_and_the_first_texts() -> None:
    answers = [
        Answer(str(number), number % 2 == 0, {"text": f"text {number}", "tokens": 3}, "a", 1.5, 7, (True, False))
        for number in range(5)
    ]
    (written,) = gathered_bytes(1, _Share(answers).written())
    read = _Share.read(written)
    assert (read.end, [one.share for one in read.answers]) == ("done", [0.5] * 5)
    assert [dict(one.facts) for one in read.answers] == [{"text": f"text {number}"} for number in range(3)] + [{}, {}]
    assert [(one.is_right, one.group, one.nats, one.size_bytes) for one in read.answers] == [
        (one.is_right, "a", 1.5, 7) for one in answers
    ]
    assert _Share.read(_Share(end="failed", error="why").written()).error == "why"

"""Masked tokens: which are hidden, that the loss counts them alone, and what an encoder refuses."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from halcyon.host.errors import BadConfiguration
from halcyon.inference.engine import Engine
from halcyon.inference.likelihood import Likelihoods
from halcyon.models import Inputs
from halcyon.step.objectives.masked_token import MaskedToken, MaskIds
from halcyon.step.objectives.objective import ROW_SEEDS
from halcyon.step.program import build_program
from halcyon.step.state import initial_state
from halcyon.tokenizer import load
from halcyon.tokenizer.definition import TokenizerDefinition
from halcyon_api.reading import InvalidRun
from halcyon_api.training_run import TrainingRunSpec
from halcyon_api.validation import find_problems
from tests.api.documents import minimal_spec
from tests.families import MASKED, SMALL_FAMILIES
from tests.trainer.models.cases import LLAMA, MODERNBERT, make, named
from tests.trainer.support.meshes import mesh_of

MASK, SPECIAL, TOKENS = 20, (0, 20), 21
OBJECTIVE = MaskedToken(0.3, MaskIds(MASK, SPECIAL, TOKENS), compute_dtype=jnp.dtype("float32"))
ROWS, LENGTH = 8, 32
ENCODER: Any = MODERNBERT
DECODER: Any = LLAMA


def batch_of(rows: int = ROWS, length: int = LENGTH) -> dict[str, jax.Array]:
    """Two documents a row, the first with the number 0 as in a row that begins within one, and padding."""
    place = np.arange(length)
    tokens = np.random.default_rng(0).integers(0, MASK, (rows, length)) * (place < length - 4)
    segments = ((place >= length // 2).astype(int) + (place >= length - 4)) * np.ones((rows, 1), int)
    arrays = {"tokens": tokens, "segments": segments}
    return {name: jnp.asarray(array, jnp.int32) for name, array in arrays.items()} | {
        "weights": jnp.ones((rows, length))
    }


def spec_of(**changes: Any) -> TrainingRunSpec:
    trainer = {"steps": 10, "batchSize": ROWS, "sequenceLength": LENGTH}
    sections = {"model": SMALL_FAMILIES["modernBert"], **MASKED, "trainer": trainer}
    return minimal_spec(**{f"spec__{name}": part for name, part in sections.items()} | changes)


def test_a_share_of_the_tokens_is_hidden_and_no_special_one() -> None:
    batch = batch_of(64, 512)
    batch["weights"] = batch["weights"].at[-1].set(0)  # a row that only fills the batch
    seen, hidden = map(np.asarray, jax.jit(OBJECTIVE.hide)(batch | {ROW_SEEDS: jnp.arange(64, dtype=jnp.uint32)}))
    tokens, ordinary = np.asarray(batch["tokens"]), np.asarray((batch["weights"] > 0) & (batch["tokens"] > 0))
    assert hidden[ordinary].mean() == pytest.approx(0.3, abs=0.01)
    assert not hidden[~ordinary].any()
    part = {name: array[9:16] for name, array in batch.items()} | {ROW_SEEDS: jnp.arange(9, 16, dtype=jnp.uint32)}
    np.testing.assert_array_equal(OBJECTIVE.hide(part)[0], seen[9:16], "a row is hidden alike in any part of a batch")
    assert (seen == tokens)[hidden == 0].all()
    assert (seen == MASK)[hidden > 0].mean() == pytest.approx(0.8 + 0.1 / TOKENS, abs=0.01)
    assert (seen == tokens)[hidden > 0].mean() == pytest.approx(0.1 + 0.1 / TOKENS, abs=0.01)


def test_an_evaluation_hides_the_same_tokens_of_a_document_in_each_place() -> None:
    batch = batch_of()
    half = LENGTH // 2
    turned = {name: jnp.roll(array[:, : LENGTH - 4], -half, axis=1)[::-1] for name, array in batch.items()}
    turned["segments"] = 9 - turned["segments"]
    first, second = (np.asarray(OBJECTIVE.hide(one)[1]) for one in (batch, turned))
    np.testing.assert_array_equal(first[::-1, half : LENGTH - 4], second[:, : half - 4])
    np.testing.assert_array_equal(first[::-1, :half], second[:, half - 4 :])
    assert len({row.tobytes() for row in first}) == ROWS


def test_the_loss_is_that_of_the_hidden_tokens() -> None:
    model, batch = make(ENCODER, length=LENGTH), batch_of()
    sums = jax.jit(lambda model, batch: OBJECTIVE(model, batch, None, None))(model, batch)
    seen, hidden = OBJECTIVE.hide(batch)
    logits = model.logits(
        model(Inputs(named(np.asarray(seen)), segments=named(np.asarray(batch["segments"])))).features
    )
    log_probs = jax.nn.log_softmax(logits.rearrange(("batch", "position", "vocab")).array)
    expected = -jnp.sum(hidden * jnp.take_along_axis(log_probs, batch["tokens"][..., None], -1)[..., 0])
    assert float(sums.weight) == float(hidden.sum()) > 0
    assert float(sums.loss) == pytest.approx(float(expected), rel=1e-5)


def losses(microbatches: int = 1, **mesh: int) -> list[float]:
    """Of two steps, and the number of hidden tokens; the first parameters are those of one device."""
    first = build_program(spec_of(), TOKENS, mesh_of())
    program = build_program(spec_of(spec__trainer__microbatches=microbatches), TOKENS, mesh_of(**mesh))
    object.__setattr__(program.objective, "ids", OBJECTIVE.ids)
    state: Any = jax.tree.map(np.asarray, initial_state(first.build_state, first.template))
    parts = {name: array.reshape(microbatches, -1, LENGTH) for name, array in batch_of().items()}
    found = []
    with program.tracing():
        step = jax.jit(program.train_step)
        for _ in range(2):
            state, metrics = step(state, parts, jnp.zeros(program.mesh.size, jnp.int32))
            found += [float(metrics.loss), float(metrics.tokens)]
    return found


@pytest.mark.slow
@pytest.mark.variant
def test_masks_and_losses_are_those_of_one_device_on_a_mesh_and_with_microbatches() -> None:
    one = losses()
    assert one[1] != one[3], "each step hides other tokens"
    np.testing.assert_allclose(losses(2, fsdp=2, context=2, tensor=2), one, rtol=0, atol=1e-5)


BYTES = {"spec__tokenizer": {"byte": {}}}
CHAT = [{"name": "chat", "jsonl": {"paths": ["/a.jsonl"]}, "format": {"chat": {}}}]


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        (BYTES, "add [MASK] to tokenizer.bpe.specialTokens"),
        ({"spec__data__attendAcrossDocuments": True}, "a token would see padding too"),
        ({"spec__data__sources": CHAT}, "hides tokens of the whole text; set format text"),
        ({"spec__telemetry": {"sample": {"prompt": "a", "everySteps": 5}}}, "cannot write or score a text"),
    ],
)
def test_what_an_encoder_does_not_do_is_refused(changes: dict[str, Any], sentence: str) -> None:
    assert list(find_problems(spec_of())) == []
    (problem,) = find_problems(spec_of(**changes))
    assert sentence in problem.message


@pytest.mark.parametrize(("family", "objective"), [("llama", "maskedToken"), ("modernBert", "nextToken")])
def test_encoders_and_masked_tokens_belong_together(family: str, objective: str) -> None:
    with pytest.raises(InvalidRun, match=r"encoders \(modernBert\) have objective.maskedToken, which only they have"):
        spec_of(spec__model=SMALL_FAMILIES[family], spec__objective={objective: {}})


def test_a_tokenizer_without_a_mask_and_a_text_of_an_encoder_are_refused() -> None:
    with pytest.raises(BadConfiguration, match="the tokenizer has no token in the place of hidden ones"):
        MaskIds.of(load(TokenizerDefinition("byte")))
    for user in (Engine, Likelihoods):
        with pytest.raises(BadConfiguration, match="ModernBert is an encoder"):
            user(make(ENCODER))
    assert Likelihoods(make(DECODER))

"""The teacher of a run (``spec.objective.teacher``): read once, when the run begins; then it is in the state."""

import dataclasses
from typing import Any

import numpy as np

from halcyon.host.errors import BadConfiguration
from halcyon.run.beginning import Beginning, of_hugging_face
from halcyon.run.place import Place
from halcyon.step.program import Program
from halcyon.step.state import TrainState
from halcyon.tokenizer import Tokenizer, TokenizerDefinition, load
from halcyon.tokenizer.probe import probe_texts
from halcyon.tokenizer.resolve import definition_of
from halcyon_api.spec.origin import HuggingFaceOriginSpec, OriginSpec

FIELD = "spec.objective.teacher"


def with_teacher(
    place: Place, program: Program, tokenizer: Tokenizer, beginning: Beginning, state: TrainState
) -> TrainState:
    """The state with its teacher. A collective, for the main thread.

    Args:
        place: The run.
        program: Its program.
        tokenizer: Its tokenizer.
        beginning: What it begins with.
        state: The state of that, in which a new run has zeros in the place of the teacher.

    Raises:
        BadConfiguration: The teacher is another model than the document says, has another tokenizer, or cannot be read.
        DataUnreachable: The hub does not answer, or denies access.
    """
    teacher = place.spec.objective.teacher
    if teacher is None or beginning.kind not in ("weights", "random"):
        return state
    template: Any = program.template.reference
    state = dataclasses.replace(state, reference=None)  # frees the zeros
    origin = OriginSpec(hugging_face=HuggingFaceOriginSpec(path=teacher.path))
    found = of_hugging_face(place, origin, teacher.model, template, (FIELD, f"{FIELD}.model"))
    theirs = definition_of(found.files)
    if theirs is None:
        place.reporter.warning(
            f"{FIELD}.path: {found.path} has no tokenizer, so it was not compared with spec.tokenizer"
        )
    elif not _is_same(tokenizer, theirs):
        raise BadConfiguration(
            f"{FIELD}.path: the tokenizer in {found.path} is not spec.tokenizer, so their tokens cannot be compared; "
            "take a teacher with the tokenizer of the run"
        )
    return dataclasses.replace(state, reference=found.model)


def _is_same(tokenizer: Tokenizer, other: TokenizerDefinition) -> bool:
    """Whether two tokenizers encode the same texts alike."""
    texts = probe_texts(tokenizer.special_tokens)
    try:
        pairs = zip(tokenizer.encode_batch(texts), load(other).encode_batch(texts), strict=True)
    except BadConfiguration:
        return False
    return all(np.array_equal(*pair) for pair in pairs)

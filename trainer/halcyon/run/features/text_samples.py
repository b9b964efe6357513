"""The texts that a model writes as it learns (``spec.telemetry.sample``): every N steps, and after the last one.

Process 0 copies the model to its own devices and continues the prompt there; the others only take part in the copy. So
every mesh can do it, and no text has a part in a step: the losses are bitwise those of a run without texts. The text is
a function of the model, the run's seed and the step, so a run that is killed and does the step again writes it again.
"""

import datetime as dt
import hashlib
from typing import Any

from halcyon.host.errors import BadConfiguration, TrainerExit
from halcyon.inference import Sampling, pieces
from halcyon.inference.chat import ChatPrompts
from halcyon.inference.generating import engine_for, prompt_ids
from halcyon.models.cache import KeepsCache
from halcyon.run.benchmarks import asking_of
from halcyon.run.callback import Callback
from halcyon.run.own_copy import help_copy, own_copy, own_shapes, tracing_own
from halcyon.run.setup import Setup
from halcyon.step.state import TrainState
from halcyon_api.printable import harmless
from halcyon_api.spec.telemetry import SampleSpec

MOST_TOKENS = 96
"""Most tokens of a text."""
MOST_CHARACTERS = 1000
TEMPERATURE = 0.8
"""Text of the most likely tokens repeats itself while a model knows little."""
_DATE = dt.datetime(2026, 1, 1)


class TextSamples(Callback):
    """The texts of a training. Creating it is a collective.

    Args:
        spec: ``spec.telemetry.sample``.
        setup: The training.

    Raises:
        BadConfiguration: The model keeps no cache, or the prompt leaves no room for a text.
    """

    saves = False

    def __init__(self, spec: SampleSpec, setup: Setup) -> None:
        place, tokenizer = setup.place, setup.tokenizer
        self._spec, self._place, self._tokenizer = spec, place, tokenizer
        self._shapes = own_shapes(place.spec, tokenizer.vocab_size)
        if not isinstance(self._shapes, KeepsCache):
            raise BadConfiguration(
                "spec.telemetry.sample: the model keeps no cache, so it cannot write text; leave it out, or give the "
                "model a method new_cache"
            )
        asking = asking_of(place.root(), place.processes, spec=place.spec)
        chat = ChatPrompts.of(tokenizer, asking.template, lambda: _DATE) if asking.in_conversations else None
        asked = [{"role": "user", "content": spec.prompt}]
        self._ids = prompt_ids(tokenizer, spec.prompt) if chat is None else chat.seen(asked)[0]
        self._ends = chat and chat.ends
        self._between = "" if chat is None else "\n"
        self._tokens = min(MOST_TOKENS, self._shapes.max_position.size - len(self._ids))
        if self._tokens < 1:
            raise BadConfiguration(
                f"spec.telemetry.sample.prompt has {len(self._ids)} tokens, and the model takes "
                f"{self._shapes.max_position.size} with the text after them; shorten the prompt"
            )

    def due(self, step: int, *, is_last: bool) -> bool:
        """See `Callback`."""
        return self._spec.is_due(step, is_last=is_last)

    def after(self, step: int, state: TrainState) -> bool:
        """Write the text after a step, on process 0. A failure is a warning: the run trains on."""
        reporter, model = self._place.reporter, state.model
        reporter.stage("evaluating")
        if self._place.processes.is_main:
            try:
                text = harmless(self._between + self._text(step, model))
                reporter.event("sample", step=step, prompt=harmless(self._spec.prompt), text=text)
            except Exception as error:  # such as too little memory; `own_copy` raises it after the last collective
                kind = "" if isinstance(error, TrainerExit) else f"{type(error).__name__}: "
                reporter.warning(f"spec.telemetry.sample: there is no text of step {step}: {kind}{error}")
        else:
            help_copy(model)
        reporter.stage("training")
        return True

    def _text(self, step: int, model: Any) -> str:
        copy = own_copy(model, self._shapes)
        with tracing_own():
            engine = engine_for(
                copy,
                self._tokenizer,
                [self._ids],
                self._tokens,
                slots=1,
                compute_dtype=self._place.spec.trainer.precision.compute,
            )
            settings = Sampling(self._tokens, TEMPERATURE, seed=seed_of(self._place.spec.trainer.seed, step))
            parts = pieces(engine, self._tokenizer, [self._ids], [settings], ends=self._ends)
            text = "".join(piece.text for piece in parts)
        return text if len(text) <= MOST_CHARACTERS else f"{text[:MOST_CHARACTERS]} …"


def seed_of(seed: int, step: int) -> int:
    """The seed of a text, below 2**32: a function of the run's seed and the step."""
    return int.from_bytes(hashlib.sha256(f"sample {seed} {step}".encode()).digest()[:4], "big")

"""What an objective minimizes beside its own loss: the divergence from a teacher (`halcyon.models.divergence`).

The reported loss stays that of the objective, so it can be compared with that of other runs, and an evaluation has bits
per byte. What is minimized is ``(1 - weight) loss + weight divergence``.
"""

from typing import NamedTuple

import jax
from haliax import NamedArray
from jax.typing import DTypeLike

from halcyon.models.divergence import Scores, divergence
from halcyon.models.model import CausalLM, Inputs
from halcyon.models.softmax import at_temperature
from halcyon.step.objectives.objective import Sums
from halcyon_api.spec.objective import TeacherSpec


class Teacher(NamedTuple):
    """A model to learn from.

    Attributes:
        spec: ``spec.objective.teacher``.
        model: The model, which is not trained.
    """

    spec: TeacherSpec
    model: CausalLM

    def taught(
        self, sums: Sums, model: CausalLM, features: NamedArray, inputs: Inputs, weights: NamedArray, dtype: DTypeLike
    ) -> Sums:
        """The sums of the objective, with the divergence as a penalty, and the metric ``teacher_divergence`` in nats.

        Args:
            sums: Those of the objective.
            model: The trained model.
            features: Its features: (..., position, embed).
            inputs: What both models see.
            weights: The weight of each position in the loss: (..., position) float32.
            dtype: Type of activations.
        """
        given = self.model(inputs, compute_dtype=dtype).features

        def scores(model: CausalLM, features: NamedArray) -> Scores:
            features, softmax = at_temperature(features, model.softmax, self.spec.temperature)
            return Scores(features, model.head, softmax)

        found = divergence(scores(model, features), scores(self.model, given), weights, self.spec.beta, self.spec.top_k)
        own = jax.lax.stop_gradient(sums.loss) if self.spec.weight == 1 else sums.loss
        further = self.spec.weight * (found - own)
        penalty = further if sums.penalty is None else sums.penalty + further
        return sums._replace(loss=own, metrics=sums.metrics | {"teacher_divergence": found}, penalty=penalty)

"""Classification: the cross entropy of the label of each text, by a head over one vector of the text.

A row of the batch is one text with padding, which is another segment. The target with a weight is the number of its
label; it stands at the last token. So sums, microbatches and meshes are those of all objectives.
"""

from dataclasses import dataclass
from typing import Any

import haliax as hax
import jax
import jax.numpy as jnp

from halcyon.models.axes import BATCH, POSITION
from halcyon.models.model import CausalLM, Inputs
from halcyon.models.pooling import pooled
from halcyon.step.objectives.objective import Batch, Common, Sums, named, typed, with_routers


@dataclass(frozen=True)
class Classify(Common):
    """Cross entropy of labels, as ``ForSequenceClassification`` of transformers computes it."""

    fields = typed("tokens", "targets", "segments", "weights")
    """See `halcyon.step.objectives.objective.Objective`."""
    per_token = False
    """See `halcyon.step.objectives.objective.Objective`: the unit is a text."""

    def __call__(self, model: CausalLM, batch: Batch, frozen: Any, key: jax.Array | None) -> Sums:
        """See `halcyon.step.objectives.objective.Objective`. The metric ``accuracy`` is 1 for a text whose label has
        the greatest logit, else 0."""
        del frozen, key
        weights = jnp.sum(batch["weights"], axis=1)
        inside = batch["segments"] == batch["segments"][:, :1]
        counted = hax.named(inside * weights[:, None], (BATCH, POSITION))
        inputs = Inputs(**named(batch, ("tokens", "segments")), weights=counted)
        model = self.dropping(model, batch)
        outputs = model.states(inputs, compute_dtype=self.compute_dtype)
        logits = model.scores(pooled(outputs.features, inside[:, None], model.pooling or "last")).array[:, 0]
        labels = jnp.sum(jnp.where(batch["weights"] > 0, batch["targets"], 0), axis=1)
        losses = -jnp.take_along_axis(jax.nn.log_softmax(logits), labels[:, None], axis=1)[:, 0]
        metrics = {"accuracy": jnp.sum(weights * (jnp.argmax(logits, axis=1) == labels))}
        sums = Sums(jnp.sum(weights * losses), jnp.sum(weights), metrics)
        return with_routers(sums, outputs, hax.named(weights, (BATCH,)))

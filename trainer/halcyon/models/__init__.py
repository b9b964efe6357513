"""Language models as Haliax modules. They name their axes and do not depend on the mesh, the data or the training.

`families` has one file for each architecture, `parts` their common parts. Losses belong to `halcyon.step.objectives`.
"""

from halcyon.models.model import CausalLM, Inputs, Outputs
from halcyon.models.parameters import parameter_count
from halcyon.models.registry import build_model, flops_per_token
from halcyon.models.shape_checks import check_shapes_by_thread

__all__ = ["CausalLM", "Inputs", "Outputs", "build_model", "flops_per_token", "parameter_count"]

check_shapes_by_thread()

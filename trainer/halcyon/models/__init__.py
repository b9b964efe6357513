"""Language models as Haliax modules: they name their axes and know nothing of the mesh, the data or the training.

`families` has one file for each architecture, `parts` what they are put together from. A loss belongs to `halcyon.objectives`.
"""

from halcyon.models.flops import flops_per_token
from halcyon.models.model import CausalLM, Inputs, Outputs
from halcyon.models.parameters import parameter_count
from halcyon.models.registry import build_model

__all__ = ["CausalLM", "Inputs", "Outputs", "build_model", "flops_per_token", "parameter_count"]

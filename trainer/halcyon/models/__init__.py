"""Language models as Haliax modules: they name their axes and know nothing of the mesh."""

from halcyon.models.flops import flops_per_token
from halcyon.models.log_probs import next_token_losses
from halcyon.models.model import CausalLM
from halcyon.models.parameters import parameter_count
from halcyon.models.registry import build_model

__all__ = ["CausalLM", "build_model", "flops_per_token", "next_token_losses", "parameter_count"]

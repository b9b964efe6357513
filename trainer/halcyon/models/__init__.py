"""Language models as Haliax modules: they name their axes and know nothing of the mesh."""

from halcyon.models.causal_lm import CausalLM
from halcyon.models.flops import flops_per_token
from halcyon.models.loss import next_token_losses
from halcyon.models.registry import build_model
from halcyon.models.roles import parameter_count

__all__ = ["CausalLM", "build_model", "flops_per_token", "next_token_losses", "parameter_count"]

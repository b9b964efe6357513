"""All trainer tests of this process share eight pretended devices."""

import os

# These tests are about numbers, not about speed, and most of their time is compilation: code that is not optimised compiles several times
# faster. It must be said before JAX starts its backend.
os.environ["XLA_FLAGS"] = "--xla_backend_optimization_level=0 --xla_cpu_use_fusion_emitters=false"

import jax

jax.config.update("jax_platforms", "cpu")
jax.config.update("jax_num_cpu_devices", 8)

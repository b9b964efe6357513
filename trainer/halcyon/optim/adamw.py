"""AdamW (Loshchilov and Hutter 2019) from a spec.

All arithmetic is float32, whatever the types of parameters and moments: each update rounds a parameter, and a stored moment, once. The
learning rate is an argument of each update, so the reported rate is the rate in use, and a step with a dropped update counts in the
schedule. With a schedule, ``weight_decay`` and ``momentum`` (instead of ``beta1``, also in the bias correction) are arguments too. The
state counts only the gradients in its moments, for their bias correction; a dropped update changes neither count nor moments.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import optax

from halcyon_api.spec.optimizer import AdamWSpec, OptimizerSpec

Tree = Any


def adamw(spec: OptimizerSpec, rule: AdamWSpec, decays: Any, moments: jnp.dtype) -> optax.GradientTransformationExtraArgs:
    """Clip the global norm, Adam, decoupled weight decay, learning rate. See `halcyon.optim.registry.build_optimizer`.

    Args:
        spec: ``spec.optimizer`` of the run: the settings of all rules.
        rule: ``spec.optimizer.adamw`` of the run.
        decays: Which parameters decay: a tree of bools with the structure of the model.
        moments: Type in which the moments are stored.
    """
    # Keep this order: it decides the paths of the state in checkpoints.
    return optax.chain(
        _clip_by_global_norm(spec.max_gradient_norm),
        _scale_by_adam(rule.beta1, rule.beta2, rule.epsilon, moments),
        _add_decayed_weights(spec.weight_decay, decays),
        _scale_by_learning_rate(),
    )


def _clip_by_global_norm(greatest: float) -> optax.GradientTransformation:
    clip = optax.clip_by_global_norm(greatest) if greatest else optax.identity()

    def update(updates: Tree, state: optax.OptState, params: Tree | None = None) -> tuple[Tree, optax.OptState]:
        return clip.update(jax.tree.map(_wide, updates), state, params)

    return optax.GradientTransformation(clip.init, update)


def _scale_by_adam(beta1: float, beta2: float, epsilon: float, dtype: jnp.dtype) -> optax.GradientTransformationExtraArgs:
    def init(params: Tree) -> optax.ScaleByAdamState:
        zeros = [jax.tree.map(lambda leaf: jnp.zeros_like(leaf, dtype=dtype), params) for _ in range(2)]
        return optax.ScaleByAdamState(jnp.zeros((), jnp.int32), *zeros)

    def update(updates: Tree, state: Any, params: Tree | None = None, **extra_args: Any) -> tuple[Tree, optax.ScaleByAdamState]:
        del params
        count, momentum = optax.safe_increment(state.count), extra_args.get("momentum", beta1)
        first = jax.tree.map(lambda old, g: momentum * _wide(old) + (1 - momentum) * g, state.mu, updates)
        second = jax.tree.map(lambda old, g: beta2 * _wide(old) + (1 - beta2) * g * g, state.nu, updates)
        first_share, second_share = 1 - momentum**count, 1 - beta2**count
        updates = jax.tree.map(lambda m, v: m / first_share / (jnp.sqrt(v / second_share) + epsilon), first, second)
        stored = [jax.tree.map(lambda leaf: leaf.astype(dtype), moment) for moment in (first, second)]
        return updates, optax.ScaleByAdamState(count, *stored)

    return optax.GradientTransformationExtraArgs(init, update)


def _add_decayed_weights(constant: float, mask: Any) -> optax.GradientTransformationExtraArgs:
    def update(updates: Tree, state: optax.OptState, params: Tree | None = None, **extra_args: Any) -> tuple[Tree, optax.OptState]:
        decay = extra_args.get("weight_decay", constant)
        flags = jax.tree.leaves(mask)
        leaves, structure = jax.tree.flatten(updates)
        pairs = zip(flags, leaves, jax.tree.leaves(params), strict=True)
        return jax.tree.unflatten(structure, [leaf + decay * _wide(weight) if flag else leaf for flag, leaf, weight in pairs]), state

    return optax.GradientTransformationExtraArgs(optax.init_empty_state, update)


def _scale_by_learning_rate() -> optax.GradientTransformationExtraArgs:
    def update(updates: Tree, state: optax.OptState, params: Tree | None = None, **extra_args: Any) -> tuple[Tree, optax.OptState]:
        del params
        learning_rate: jax.Array = extra_args["learning_rate"]
        return jax.tree.map(lambda leaf: -learning_rate * leaf, updates), state

    return optax.GradientTransformationExtraArgs(optax.init_empty_state, update)


def _wide(leaf: jax.Array) -> jax.Array:
    return leaf.astype(jnp.float32)

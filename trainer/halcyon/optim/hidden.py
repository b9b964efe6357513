"""What the rules for hidden matrices share: AdamW beside them for the other parameters, and orthogonal matrices.

A matrix is orthogonalised by matrix products alone, which bring its singular values near 1. An odd polynomial of a
matrix is that polynomial of its singular values. Each iteration applies ``x -> a x + b x^3 + c x^5``; together the
iterations lift all singular values of a matrix of norm 1 that are not tiny to about 1 (Jordan et al. 2024, `Muon
<https://kellerjordan.github.io/posts/muon/>`_).
"""

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from halcyon.optim.matrices import Matrices, MatrixShape, hidden
from halcyon.optim.rule import Given, Rule, Tree, merge, select, wide
from halcyon.optim.rules.adam import adamw
from halcyon_api.spec.rules import AdamWSpec, Coefficients, IterationType, MatricesSpec, Scaling

Polynomial = tuple[float, float, float]

QUINTIC: Polynomial = (3.4445, -4.7750, 2.0315)
"""The polynomial of Jordan et al. 2024. Its slope at 0 is as large as possible; singular values end between about
0.7 and 1.2.
"""

POLAR_EXPRESS: tuple[Polynomial, ...] = (
    (8.28721201814563, -23.595886519098837, 17.300387312530933),
    (4.107059111542203, -2.9478499167379106, 0.5448431082926601),
    (3.9486908534822946, -2.908902115962949, 0.5518191394370137),
    (3.3184196573706015, -2.488488024314874, 0.51004894012372),
    (2.300652019954817, -1.6689039845747493, 0.4188073119525673),
    (1.891301407787398, -1.2679958271945868, 0.37680408948524835),
    (1.8750014808534479, -1.2500016453999487, 0.3750001645474248),
    (1.875, -1.25, 0.375),
)
"""The best polynomial of each iteration for singular values in [0.001, 1] (Amsel et al. 2025, `arXiv 2505.16932
<https://arxiv.org/abs/2505.16932>`_, section 4.4). Further iterations use the last one."""

WITH_MARGIN: tuple[Polynomial, ...] = (
    (8.156554524902461, -22.48329292557795, 15.878769915207462),
    (4.042929935166739, -2.808917465908714, 0.5000178451051316),
    (3.8916678022926607, -2.772484153217685, 0.5060648178503393),
    (3.285753657755655, -2.3681294933425376, 0.46449024233003106),
    (2.3465413258596377, -1.7097828382687081, 0.42323551169305323),
)
"""The five polynomials of the same paper with a safety factor of 1.02 and a cushion of 2, which Karpathy 2026 uses."""

SLACK = 1.01
"""Amsel et al. 2025 compute with values of up to 1.01, so that rounding never leaves the interval on which the
polynomials are small.
"""

_TINY = 1e-7
"""Added to a norm; a matrix of zeros stays zeros."""


def polynomials(name: Coefficients, iterations: int) -> tuple[Polynomial, ...]:
    """The polynomial of each iteration."""
    if name == "quintic":
        return (QUINTIC,) * iterations
    slackened = [(a / SLACK, b / SLACK**3, c / SLACK**5) for a, b, c in POLAR_EXPRESS[:-1]]
    return (*slackened, *(POLAR_EXPRESS[-1],) * iterations)[:iterations]


def orthogonalize(
    stack: jax.Array, name: Coefficients, iterations: int = 5, dtype: IterationType = "float32"
) -> jax.Array:
    """The nearest matrices with orthonormal rows, or columns if those are fewer, approximately.

    Args:
        stack: Float32 matrices [stack, rows, columns].
        name: The polynomials.
        iterations: Number of iterations.
        dtype: Type of the products. The norm before them is float32.

    Returns:
        float32 matrices.
    """
    return _iterated(stack, polynomials(name, iterations), 1.0 if name == "quintic" else SLACK, _TINY, dtype)


def polar_express_with_margin(stack: jax.Array, dtype: IterationType = "float32") -> jax.Array:
    """The same with the polynomials `WITH_MARGIN`.

    Args:
        stack: Float32 matrices [stack, rows, columns].
        dtype: Type of the products.
    """
    return _iterated(stack, WITH_MARGIN, SLACK, 1e-6, dtype)


def _iterated(
    stack: jax.Array, polynomials: Sequence[Polynomial], slack: float, tiny: float, dtype: IterationType
) -> jax.Array:
    """The polynomials of matrices, one after the other; `tiny` is added to the norm, times `slack`, that divides them
    before.
    """
    if stack.shape[-2] > stack.shape[-1]:  # the products of a wide matrix are smaller
        return _iterated(stack.mT, polynomials, slack, tiny, dtype).mT
    norm = jnp.sqrt(jnp.sum(jnp.square(stack), axis=(-2, -1), keepdims=True))
    x = (stack / (norm * slack + tiny)).astype(dtype)
    # Products of float32 use full precision on every platform; by default, TPUs and GPUs would round the factors.
    precision = jax.lax.Precision.HIGHEST if dtype == "float32" else None
    for a, b, c in polynomials:
        gram = jnp.matmul(x, x.mT, precision=precision)
        x = a * x + jnp.matmul(b * gram + c * jnp.matmul(gram, gram, precision=precision), x, precision=precision)
    return x.astype(jnp.float32)


def orthogonalizer(shared: MatricesSpec) -> Callable[[jax.Array], jax.Array]:
    """`orthogonalize` with the settings of a run."""
    return functools.partial(
        orthogonalize, name=shared.coefficients, iterations=shared.iterations, dtype=shared.iteration_type
    )


Change = Callable[[Given], Given]
"""Changes what a rule gets."""
Build = Callable[[Matrices], Rule]
"""Builds the rule of hidden matrices; see `halcyon.optim.rule`."""


class HiddenState(NamedTuple):
    """State of a rule for hidden matrices beside AdamW."""

    matrices: Any
    """State of the rule, for hidden matrices."""
    others: Any
    """State of AdamW, for all other parameters."""


def for_hidden(
    init: Callable[[Matrices, Tree], Any],
    direct: Callable[[Matrices, Any, Given], tuple[Tree, Any]],
    parameters: Tree,
    shared: MatricesSpec,
    rate: float = 1.0,
) -> Rule:
    """A rule that computes a direction for hidden matrices, which `decayed` applies, and AdamW for the rest.

    Args:
        init: Makes the state from the matrices and the parameters.
        direct: ``direct(matrices, state, given)``, otherwise as for `halcyon.optim.rule.descending`.
        parameters: See `halcyon.optim.rule`.
        shared: See `beside_adamw`.
        rate: See `beside_adamw`.
    """

    def build(matrices: Matrices) -> Rule:
        def update(state: Any, given: Given) -> tuple[Tree, Any]:
            direction, state = direct(matrices, state, given)
            return decayed(direction, given, cautious=shared.cautious), state

        return Rule(functools.partial(init, matrices), update)

    return beside_adamw(build, parameters, shared, rate)


def beside_adamw(build: Build, parameters: Tree, shared: MatricesSpec, rate: float = 1.0) -> Rule:
    """A rule for hidden matrices, and AdamW for the other parameters.

    Args:
        build: Builds the rule of hidden matrices.
        parameters: See `halcyon.optim.rule`.
        shared: The settings that rules for hidden matrices share, with those of AdamW.
        rate: Factor of the learning rate of hidden matrices.
    """
    others = shared.others

    def scaled(factor: float) -> Change:
        return lambda given: given._replace(learning_rate=given.learning_rate * factor)

    spec = AdamWSpec(beta1=others.beta1, beta2=others.beta2, epsilon=others.epsilon)
    return beside(build, spec, parameters, scaled(rate), scaled(others.learning_rate))


def beside(
    build: Build,
    others: AdamWSpec,
    parameters: Tree,
    for_matrices: Change,
    for_others: Change,
) -> Rule:
    """A rule for hidden matrices, and AdamW for the other parameters.

    Args:
        build: Builds the rule of hidden matrices.
        others: The settings of AdamW.
        parameters: See `halcyon.optim.rule`.
        for_matrices: What the rule gets, from what is given for the matrices.
        for_others: What AdamW gets, from what is given for the others.
    """
    flags = hidden(parameters)
    against = jax.tree.map(lambda flag: not flag, flags)
    of_matrices = build(Matrices(select(parameters, flags)))
    of_others = adamw(others, select(parameters, against))

    def update(state: Any, given: Given) -> tuple[Tree, HiddenState]:
        changes, matrices = of_matrices.update(state.matrices, for_matrices(given.of(flags)))
        further, rest = of_others.update(state.others, for_others(given.of(against)))
        return merge([changes, further]), HiddenState(matrices, rest)

    return Rule(
        lambda params: HiddenState(of_matrices.init(select(params, flags)), of_others.init(select(params, against))),
        update,
    )


def scale(form: MatrixShape, name: Scaling) -> float:
    """The factor of an orthogonal update; see `halcyon_api.spec.rules.Scaling`."""
    if name == "spectral":
        return math.sqrt(max(1.0, form.columns / form.rows))
    return 0.2 * math.sqrt(max(form.rows, form.columns))


def decayed(direction: Tree, given: Given, *, cautious: bool) -> Tree:
    """The change of each hidden matrix: ``-learning_rate (direction + weight_decay parameter)``.

    Args:
        direction: Float32 arrays with the structure of the matrices.
        given: The matrices, the learning rate and the decoupled weight decay.
        cautious: Decay an element only where the update and the decay have one sign (Chen et al. 2025, `arXiv
            2510.12402 <https://arxiv.org/abs/2510.12402>`_).
    """

    def one(leaf: jax.Array, weight: jax.Array) -> jax.Array:
        decay = wide(weight) * (leaf * wide(weight) >= 0) if cautious else wide(weight)
        return -given.learning_rate * (leaf + given.weight_decay * decay)

    return jax.tree.map(one, direction, given.params)

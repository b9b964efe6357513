"""The further numbers of a step in the form in which they are reported, and functions of library users inside the
compiled step: they see its gradients and updates, and return such numbers.

Such a function becomes a part of the compiled program, so a run with it has another program than a run without: its
losses may differ in their last digits. It changes nothing else, and a resumed run with the same function has bitwise
the same losses.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from halcyon_api.status.progress import ReportedMetric


class StepView(NamedTuple):
    """What a function inside the step sees, on the devices.

    The trees have the structure and the sharding of the model, with None in the place of each parameter that is not
    trained.
    """

    step: jax.Array
    """Steps done, including this one: int32 scalar."""
    loss: jax.Array
    """Loss of the step, nats per token: scalar."""
    parameters: Any
    """The parameters before the update."""
    gradients: Any
    """The gradients before clipping: float32."""
    updates: Any
    """What the update rule adds to the parameters, the learning rate included: float32.

    A dropped update is shown too.
    """


SeesStep = Callable[[StepView], Mapping[str, jax.Array]]
"""Returns scalars by name. It is traced, so it must be a pure function of JAX arrays."""


@dataclass(frozen=True)
class InStep:
    """A function inside the step.

    Attributes:
        function: The function.
        every: It is computed in every N-th step, and not in the others.
    """

    function: SeesStep
    every: int = 1

    def due(self, step: int) -> bool:
        """Whether it is computed in a step, counted from 1."""
        return step % self.every == 0


def all_seen(functions: Iterable[InStep], view: StepView, taken: Iterable[str]) -> tuple[dict[str, jax.Array], ...]:
    """Compute each function in the steps in which it is due; its numbers are zeros in the others.

    Args:
        functions: The functions.
        view: What they see.
        taken: Names of other numbers of the step.

    Raises:
        TypeError: A function does not return scalars by name.
        ValueError: Two numbers have one name.
    """
    found = tuple(_seen(one, view) for one in functions)
    names = set(taken)
    for name in (name for numbers in found for name in numbers):
        if name in names:
            raise ValueError(f"in_step: two numbers of a step have the name {name}; choose another name")
        names.add(name)
    return found


def _seen(function: InStep, view: StepView) -> dict[str, jax.Array]:

    def numbers(view: StepView) -> dict[str, jax.Array]:
        found = {name: jnp.asarray(value, jnp.float32) for name, value in dict(function.function(view)).items()}
        wrong = [name for name, value in found.items() if value.ndim]
        if wrong:
            raise TypeError(
                f"in_step: {wrong[0]} has the shape {found[wrong[0]].shape}; return scalars, such as norms or means"
            )
        return found

    shapes = jax.eval_shape(numbers, view)
    # The condition also keeps the compiler from fusing the function with the update, which would change the rounding of
    # the update.
    due = (view.step % function.every == 0) & (view.step > 0)
    return jax.lax.cond(due, numbers, lambda _: jax.tree.map(lambda one: jnp.zeros(one.shape, one.dtype), shapes), view)


def reported(functions: Iterable[InStep], numbers: Iterable[Mapping[str, Any]], step: int) -> dict[str, ReportedMetric]:
    """The numbers of the functions that are due in a step, for its report.

    Args:
        functions: The functions.
        numbers: What each returned, fetched to the host.
        step: Steps done, including this one.
    """
    found: dict[str, ReportedMetric] = {}
    for function, mine in zip(functions, numbers, strict=True):
        if function.due(step):
            found |= reported_metrics(mine)
    return found


def reported_metrics(metrics: Mapping[str, jax.typing.ArrayLike]) -> dict[str, ReportedMetric]:
    """The metrics of a step.

    An array [layer, expert] becomes two metrics with one number for each layer: ``NAME_max`` and ``NAME_min``, over the
    experts.

    Args:
        metrics: Scalars and such arrays, by name.
    """
    found: dict[str, ReportedMetric] = {}
    for name, value in metrics.items():
        if np.ndim(value) == 0:
            found[name] = float(np.asarray(value))
        else:
            found[f"{name}_max"] = tuple(np.max(np.asarray(value), axis=-1).tolist())
            found[f"{name}_min"] = tuple(np.min(np.asarray(value), axis=-1).tolist())
    return found

"""Sets the variables of ``spec.env`` on the user's own machine, where no operator sets them."""

from __future__ import annotations

from collections.abc import MutableMapping, Sequence

from halcyon_api.spec.variables import VariableSpec


def set_variables(variables: Sequence[VariableSpec], environ: MutableMapping[str, str]) -> list[str]:
    """Set the variables that the environment lacks. Call it before JAX is imported, because JAX reads some of them once.

    Returns:
        A sentence for each variable whose value only a cluster has.
    """
    missing: list[str] = []
    for variable in variables:
        if variable.name in environ:
            continue
        if variable.value is not None:
            environ[variable.name] = variable.value
        else:
            missing.append(f"spec.env[{variable.name}]: a Secret of a cluster has its value; set it in your shell if you need it")
    return missing

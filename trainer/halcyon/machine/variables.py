"""``spec.env`` where no operator has put it into the environment: on the user's own machine."""

from __future__ import annotations

from collections.abc import MutableMapping, Sequence

from halcyon_api.spec.variables import VariableSpec


def set_variables(variables: Sequence[VariableSpec], environ: MutableMapping[str, str]) -> list[str]:
    """Set what the environment lacks; call it before JAX is imported, which reads some of them once.

    Returns:
        A sentence for each variable that only a cluster can fill.
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

"""Finds which of the configured namespaces can be served now.

When a namespace is deleted, the operator's rights in it are deleted too. A rejected watch ends the process, and would
end it again after each start, for all other namespaces. So a namespace without rights is left out and checked again at
intervals; when the set changes, the process ends and starts again with the new set."""

import asyncio
import logging
from collections.abc import Awaitable, Callable

from halcyon_operator.kube.client import ApiError
from halcyon_operator.kube.cluster import Cluster

logger = logging.getLogger(__name__)

CHECK_SECONDS = 30.0

Sleep = Callable[[float], Awaitable[object]]


async def served_namespaces(
    cluster: Cluster, namespaces: tuple[str, ...], sleep: Sleep = asyncio.sleep
) -> tuple[str, ...]:
    """Wait until at least one namespace can be served, and return those that can. Empty means the whole cluster.

    Raises:
        ApiError: The API server does not answer.
    """
    while namespaces:
        served = await _served(cluster, namespaces)
        if left_out := [namespace for namespace in namespaces if namespace not in served]:
            logger.warning("no right to the TrainingRuns of %s: left out until there is one", ", ".join(left_out))
        if served:
            return served
        await sleep(CHECK_SECONDS)
    return ()


async def other_namespaces(
    cluster: Cluster, namespaces: tuple[str, ...], served: tuple[str, ...], sleep: Sleep = asyncio.sleep
) -> None:
    """Wait until the set of namespaces that can be served has changed."""
    while True:
        await sleep(CHECK_SECONDS)
        try:
            now = await _served(cluster, namespaces)
        except ApiError as error:
            logger.debug("cannot check which namespaces can be served: %s", error)
            continue
        if now != served:
            logger.warning(
                "the namespaces that can be served are now %s: starting again with them", ", ".join(now) or "none"
            )
            return


async def _served(cluster: Cluster, namespaces: tuple[str, ...]) -> tuple[str, ...]:
    return tuple([namespace for namespace in namespaces if await cluster.serves(namespace)])

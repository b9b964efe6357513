"""Tasks of the event loop."""

import asyncio
from collections.abc import Iterable
from typing import Any


async def cancelled(tasks: Iterable[asyncio.Task[Any] | None]) -> list[BaseException | None]:
    """Cancel tasks, and wait for their ends. Returns the exception of each task; None for a task without one."""
    running = [task for task in tasks if task is not None]
    for task in running:
        task.cancel()
    results: list[Any] = await asyncio.gather(*running, return_exceptions=True)
    return [result if isinstance(result, BaseException) else None for result in results]

"""The tasks and their reward."""

from collections.abc import Iterator
from typing import Any

import verifiers.v1 as vf

from sums.tool import Calculator


class SumData(vf.TaskData):
    """A question, in ``prompt``, with its answer."""

    answer: str


class SumConfig(vf.TasksetConfig):
    """Settings of the tool and of the tasks."""

    tools: vf.ToolsetConfig = vf.ToolsetConfig()
    task: vf.TaskConfig = vf.TaskConfig()


class SumTask(vf.Task[SumData]):
    """One sum."""

    @vf.reward
    async def right(self, trace: vf.Trace) -> float:
        """1 for an answer that has the right number, else 0."""
        return float(self.data.answer in (trace.last_reply or ""))


class SumTaskset(vf.Taskset[SumTask, SumConfig]):
    """All sums."""

    @classmethod
    def toolsets(cls, config: SumConfig) -> list[Any]:
        """The tool."""
        return [Calculator(config.tools)]

    def load(self) -> Iterator[SumTask]:
        """The tasks, for a use without Halcyon."""
        yield SumTask(SumData(prompt="What is 2 + 3?", answer="5"), self.config.task)

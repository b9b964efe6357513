"""A long scenario in stages that many tests check. Each stage runs once, when a test first reads its record."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Generic, Self, TypeVar, overload

import pytest

T = TypeVar("T")


class NotReached(Exception):
    """The stage that a test reads failed, or an earlier stage failed. The message names that stage and the reason."""


class stage(Generic[T]):  # noqa: N801 - a decorator
    """A stage of a `Story`: the method is called once, after all stages above it, and its result is kept.

    If a stage fails, the records of earlier stages stay, and each later stage fails with a message that names the
    failed stage.
    """

    def __init__(self, do: Callable[[Any], T]) -> None:
        self._do = do
        self._name = ""
        self.__doc__ = do.__doc__

    def __set_name__(self, owner: type[Story], name: str) -> None:
        self._name = name
        owner.stages = {**owner.stages, name: self._do}

    @overload
    def __get__(self, story: None, owner: type[Story]) -> Self: ...

    @overload
    def __get__(self, story: Story, owner: type[Story]) -> T: ...

    def __get__(self, story: Story | None, owner: type[Story]) -> Self | T:
        return self if story is None else story.reach(self._name)


class Story:
    """Stages in order; each runs after all stages before it."""

    stages: dict[str, Callable[[Any], Any]] = {}  # noqa: RUF012 - each subclass has its own, filled by its stages

    def __init__(self) -> None:
        self._records: dict[str, Any] = {}
        self._failed: tuple[str, BaseException] | None = None

    def reach(self, name: str) -> Any:
        """The record of a stage. The stage runs first if it has not run yet.

        Raises:
            NotReached: The stage failed, or an earlier one failed.
        """
        for each, do in self.stages.items():
            if each not in self._records:
                self._try(each, do, name)
            if each == name:
                break
        return self._records[name]

    def _try(self, name: str, do: Callable[[Any], Any], wanted: str) -> None:
        if self._failed is not None:
            failed, why = self._failed
            where = "there" if failed == wanted else f"and did not reach {wanted!r}"
            raise NotReached(f"the story stopped at its stage {failed!r} {where}: {why}") from why
        try:
            self._records[name] = do(self)
        except (Exception, pytest.fail.Exception) as why:
            self._failed = (name, why)
            self._try(name, do, wanted)

"""Reward functions: the built-in ones, and functions of the user by their import path.

A reward function is called with three lists of texts, one entry for each answer, and returns one finite number for each
answer:

    def reward(prompts, answers, references):
        return [float(reference in answer) for answer, reference in zip(answers, references)]

Only process 0 calls it. It may call a service: its numbers are written beside the checkpoints before a step uses them,
and a run that does the step again reads them (`halcyon.telemetry.history.samples`).
"""

from __future__ import annotations

import functools
import math
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from halcyon.errors import BadConfiguration, TrainerExit
from halcyon.evals.tasks import final_number, has_number_of

FIELD = "spec.objective.policy.reward"


@dataclass(frozen=True)
class Reward:
    """A reward function.

    Attributes:
        name: Its name or import path.
        function: Called with the keyword arguments ``prompts``, ``answers`` and ``references``.
        is_pure: Whether its numbers depend on its arguments alone, so that they need not be kept.
    """

    name: str
    function: Callable[..., Any]
    is_pure: bool

    def of(self, prompts: Sequence[str], answers: Sequence[str], references: Sequence[str]) -> list[float]:
        """The rewards of some answers.

        Raises:
            TrainerExit: The function failed; another try may succeed.
            BadConfiguration: It returned something else than one finite number for each answer, or cannot use the
                references.
        """
        try:
            found = self.function(prompts=list(prompts), answers=list(answers), references=list(references))
        except BadConfiguration:
            raise
        except (Exception, SystemExit) as error:  # the function is not ours; an exit would count as the end of the run
            raise TrainerExit(
                f"{FIELD}: {self.name} failed {_where(error)}({type(error).__name__}: {_first_line(error)})"
            ) from error
        try:
            rewards = [float(one) for one in found]
        except (TypeError, ValueError):
            raise BadConfiguration(
                f"{FIELD}: {self.name} returned {type(found).__name__}; it must return a list with one number for each "
                "answer"
            ) from None
        if len(rewards) != len(answers):
            raise BadConfiguration(
                f"{FIELD}: {self.name} returned {len(rewards)} numbers for {len(answers)} answers; return one for each"
            )
        if not all(map(math.isfinite, rewards)):
            place = next(place for place, one in enumerate(rewards) if not math.isfinite(one))
            raise BadConfiguration(
                f"{FIELD}: {self.name} returned {rewards[place]} for answer {place}; return finite numbers"
            )
        return rewards


def reward_named(name: str) -> Reward:
    """The reward function of a run.

    Args:
        name: ``gsm8k``, ``spellingBee``, or an import path.

    Raises:
        BadConfiguration: It does not import, or it is not a function.
    """
    module_name, _, attribute = name.partition(":")
    if not attribute:
        return Reward(name, functools.partial(_same_number, name), True)
    try:
        module = import_module(module_name)
    except (Exception, SystemExit) as error:  # the module is not ours
        raise BadConfiguration(
            f"{FIELD}: {module_name} does not import ({type(error).__name__}: {_first_line(error)}); correct the path, "
            "or take an image "
            "that has the package"
        ) from None
    function = getattr(module, attribute, None)
    if not callable(function):
        raise BadConfiguration(f"{FIELD}: the module {module_name} has no function {attribute}; correct the path")
    return Reward(name, function, False)


def _same_number(
    name: str, *, prompts: Sequence[str], answers: Sequence[str], references: Sequence[str]
) -> list[float]:
    """1 for an answer with the number of the reference after ``####``, else 0: the rule of GSM8K (Cobbe et al. 2021)
    and of SpellingBee.

    Raises:
        BadConfiguration: No reference has such a number, so no answer could be right.
    """
    del prompts
    if references and all(final_number(reference) is None for reference in references):
        raise BadConfiguration(
            f"{FIELD}: {name} compares numbers after ####, and no reference of the step has one, such as "
            f"{references[0][:100]!r}; name the "
            "field that has it (format.prompt.referenceField), or take another reward"
        )
    return [float(has_number_of(reference, answer)) for answer, reference in zip(answers, references, strict=True)]


def _where(error: BaseException) -> str:
    frames = traceback.extract_tb(error.__traceback__)
    return f"in {Path(frames[-1].filename).name} line {frames[-1].lineno} " if len(frames) > 1 else ""


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [""])[0][:200]

"""Samples of the answers of a run, and the rewards of all of them, beside its checkpoints: one file for each step.

The file of a step is ``samples/<step>.json.zst``: JSON in a Zstandard frame with a checksum. It has the hash of the
answers' tokens, so the rewards of a step that is done again are read only if its answers are the same.

The number of files is bounded: the steps since the newest checkpoint and the `NEWEST` before it have theirs, and
earlier steps have it if a power of two divides them, which grows with the run.
"""

import contextlib
import re
from dataclasses import dataclass

from pydantic import TypeAdapter

from halcyon.host.storage.records import DamagedRecord, parsed, written
from halcyon.host.storage.store import Store

SAMPLES_PREFIX = "samples/"
NEWEST = 512
"""The newest steps up to the newest checkpoint that keep their files, as all steps after it do."""
MOST_PROMPTS, MOST_ANSWERS, MOST_CHARACTERS = 2, 8, 4000
"""Prompts of a step, answers to each of them, and characters of a text that are kept."""
_NAME = re.compile(r"(\d{9,})\.json\.zst")


@dataclass(frozen=True)
class Sample:
    """A prompt, and some of its answers.

    Attributes:
        prompt: The prompt as text.
        reference: The reference of its reward.
        answers: The answers as texts.
        rewards: The reward of each.
        tokens: Tokens of each.
        ended: Whether the model ended it; else it was cut.
    """

    prompt: str
    reference: str
    answers: tuple[str, ...]
    rewards: tuple[float, ...]
    tokens: tuple[int, ...]
    ended: tuple[bool, ...]

    def __post_init__(self) -> None:
        if len({len(self.answers), len(self.rewards), len(self.tokens), len(self.ended)}) > 1:
            raise ValueError("the answers, rewards, tokens and ends of a prompt are not equally many")


@dataclass(frozen=True)
class StepSamples:
    """The file of a step.

    Attributes:
        step: The step, counted from 1 as in the log.
        sha256: Hash (hex) of the tokens of all answers.
        rewards: The rewards of all answers of the step, in the order of the batch.
        samples: Some prompts with their answers.
    """

    step: int
    sha256: str
    rewards: tuple[float, ...]
    samples: tuple[Sample, ...]


_STORED = TypeAdapter(StepSamples)


def key_of(step: int) -> str:
    """The key of a step's file."""
    return f"{SAMPLES_PREFIX}{step:09d}.json.zst"


def write_samples(store: Store, samples: StepSamples) -> None:
    """Write the file of a step.

    Raises:
        StoreFailure: The store did not answer.
    """
    store.write(key_of(samples.step), written(samples))


def keep_first(store: Store, samples: StepSamples) -> StepSamples:
    """Write the file of a step, unless there is one of the same answers already.

    So two process groups that do a step, one of which has lost the root without knowing it, use the same rewards.

    Returns:
        The samples that the file has now.

    Raises:
        StoreFailure: The store did not answer.
    """
    key = key_of(samples.step)
    while True:  # each further round means that another writer was first
        there = store.read(key)
        with contextlib.suppress(DamagedRecord):
            present = None if there.data is None else parsed(key, there.data, _STORED)
            if (
                present is not None
                and present.sha256 == samples.sha256
                and len(present.rewards) == len(samples.rewards)
            ):
                return present
        if store.swap(key, written(samples), there.generation) is not None:
            return samples


def read_samples(store: Store, step: int) -> StepSamples | None:
    """The file of a step; None if it is not there.

    Raises:
        DamagedRecord: The file is damaged.
        StoreFailure: The store did not answer.
    """
    key, data = key_of(step), store.read(key_of(step)).data
    return None if data is None else parsed(key, data, _STORED)


def sampled_steps(store: Store) -> list[int]:
    """The steps with a file, rising.

    Raises:
        StoreFailure: The store did not answer.
    """
    names = [_NAME.fullmatch(key.removeprefix(SAMPLES_PREFIX)) for key in store.list(SAMPLES_PREFIX)]
    return sorted(int(name[1]) for name in names if name is not None)


def is_kept(step: int, newest: int) -> bool:
    """Whether the file of a step stays when `newest` is the step of the newest checkpoint: at most 2 `NEWEST` files up
    to it do.
    """
    stride = 1
    while newest > NEWEST * stride:
        stride *= 2
    return newest - step < NEWEST or step % stride == 0


def thin_out(store: Store, newest: int) -> None:
    """Delete the files that are not kept when `newest` is the step of the newest checkpoint.

    Raises:
        StoreFailure: The store did not answer.
    """
    for step in sampled_steps(store):
        if not is_kept(step, newest):
            store.delete(key_of(step))

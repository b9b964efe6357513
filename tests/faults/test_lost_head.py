"""A lost HEAD ends no command: each is started in a fresh process, where no other code has prepared anything."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults import rows
from tests.faults.interpreters import halcyon_of, others
from tests.faults.recovery import (
    HARMS,
    NAMED,
    READINGS,
    THOROUGH,
    Place,
    check_reading,
    check_serving,
    check_training,
    trained,
)
from tests.faults.table import Trials
from tests.suite.limits import limit

pytestmark = [rows.LOST_HEAD, pytest.mark.slow]

HALCYON = Path(sys.executable).with_name("halcyon")
"""The command of this environment."""
IN_MAKE_TEST = "garbage"
"""The harm of `make test`."""


def cases() -> Iterator[tuple[str, str]]:
    """Each command with the harms after which it is started.

    All find the root's checkpoints by the same code, so few harms suffice.
    """
    for command in READINGS:
        if command == "checkpoints list":
            yield from ((command, harm) for harm in HARMS)
        else:
            yield from ((command, harm) for harm in (NAMED if command in THOROUGH else ("garbage", "missing")))


ALL_COMPLETE = """
import importlib, pkgutil, halcyon_api
from halcyon_api.base import ApiModel

for module in pkgutil.walk_packages(halcyon_api.__path__, "halcyon_api."):
    if not module.name.endswith("__main__"):
        importlib.import_module(module.name)
classes = [ApiModel]
for one in classes:
    classes += one.__subclasses__()
print(len(classes), sorted(one.__name__ for one in classes if not one.__pydantic_complete__))
"""


def test_a_fresh_process_has_every_class_of_the_contract_complete() -> None:
    """A class that is built at its first use is built from the caller's local variables, which ends some releases of
    Python by a signal.
    """
    done = subprocess.run(
        [sys.executable, "-c", ALL_COMPLETE], capture_output=True, text=True, check=True, timeout=limit(60)
    )
    number, _, incomplete = done.stdout.strip().partition(" ")
    assert incomplete == "[]"
    assert int(number) > 200


@pytest.fixture(scope="module")
def pristine(tmp_path_factory: pytest.TempPathFactory) -> tuple[Place, bytes, dict[int, float]]:
    """A trained run, its good HEAD and its losses."""
    return trained(HALCYON, tmp_path_factory.mktemp("place"))


@pytest.fixture
def place(pristine: tuple[Place, bytes, dict[int, float]], tmp_path: Path) -> Place:
    """The place as it was after the training.

    The document names its root, so it stays where it is, and a copy is kept meanwhile.
    """
    folder = pristine[0].folder
    copy = folder.with_name(f"{folder.name}-copy")
    if copy.exists():
        shutil.rmtree(folder)
        shutil.copytree(copy, folder)
    else:
        shutil.copytree(folder, copy)
    return pristine[0]


@pytest.mark.parametrize(
    "harm", [pytest.param(name, marks=() if name == IN_MAKE_TEST else pytest.mark.variant) for name in HARMS]
)
def test_a_training_goes_on_from_its_newest_checkpoint_and_says_why_head_was_rebuilt(
    pristine: tuple[Place, bytes, dict[int, float]], place: Place, harm: str, trials: Trials
) -> None:
    _, head, losses = pristine
    place.lose_head(HARMS[harm], head)
    check_training(HALCYON, place, harm, losses)
    trials.count("trainings with a lost HEAD")


@pytest.mark.parametrize(
    ("command", "harm"),
    [
        pytest.param(*case, marks=() if case == ("checkpoints list", IN_MAKE_TEST) else pytest.mark.variant)
        for case in cases()
    ],
)
def test_a_command_reads_a_root_without_its_head(
    pristine: tuple[Place, bytes, dict[int, float]], place: Place, command: str, harm: str, trials: Trials
) -> None:
    place.lose_head(HARMS[harm], pristine[1])
    check_reading(HALCYON, place, command, harm)
    trials.count("commands that read a root without its HEAD")


@pytest.mark.variant
@pytest.mark.parametrize("harm", NAMED)
def test_a_model_is_served_from_a_root_without_its_head(
    pristine: tuple[Place, bytes, dict[int, float]], place: Place, harm: str, trials: Trials
) -> None:
    place.lose_head(HARMS[harm], pristine[1])
    check_serving(HALCYON, place)
    trials.count("commands that read a root without its HEAD")


@pytest.mark.variant
def test_recovery_on_each_other_python(tmp_path: Path, trials: Trials) -> None:
    interpreters = others()
    if not interpreters:
        pytest.skip("there is no other supported Python on this machine")
    for number, python in enumerate(interpreters):
        halcyon = halcyon_of(python)
        folder = tmp_path / str(number)
        folder.mkdir()
        place, head, losses = trained(halcyon, folder)
        copy = tmp_path / f"{number}-copy"
        shutil.copytree(folder, copy)
        for harm in NAMED:
            shutil.rmtree(folder)
            shutil.copytree(copy, folder)
            place.lose_head(HARMS[harm], head)
            for command in ("checkpoints list", *THOROUGH) if harm == IN_MAKE_TEST else ("checkpoints list",):
                check_reading(halcyon, place, command, harm)
            if harm == IN_MAKE_TEST:
                check_serving(halcyon, place)
            check_training(halcyon, place, harm, losses)
            trials.count("trainings with a lost HEAD")

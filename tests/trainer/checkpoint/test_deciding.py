"""What process 0 decides: its result, or its error with the same exit code, on every process."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, NoReturn

import pytest

from halcyon.checkpoint.processes import decide
from halcyon.host.errors import BadConfiguration, DamagedData, Fenced, Preempted, RootTaken, TrainerExit
from halcyon.host.storage.failures import SaveFailed


@dataclass
class Process:
    """One of two processes; what process 0 gives is what both get."""

    process_index: int
    given: list[str]
    process_count: int = 2

    def agree(self, document: dict[str, Any] | None) -> dict[str, Any]:
        """Process 0's document."""
        if self.process_index == 0:
            self.given.append(json.dumps(document))
        return json.loads(self.given[-1])


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (BadConfiguration("correct it"), BadConfiguration),
        (DamagedData("read it again"), DamagedData),
        (SaveFailed("no room"), TrainerExit),
        (Preempted("a notice"), Preempted),
        (RootTaken("another run"), RootTaken),
        (Fenced("a newer one", 7), Fenced),
        (TrainerExit("try again"), TrainerExit),
    ],
)
def test_an_error_has_the_same_exit_code_on_every_process(error: TrainerExit, kind: type[TrainerExit]) -> None:
    def failing() -> NoReturn:
        raise error

    given: list[str] = []
    for index in range(2):
        with pytest.raises(TrainerExit) as found:
            decide(Process(index, given), "file:///root", failing)
        assert type(found.value) is kind
        assert str(found.value) == str(error)
        assert found.value.exit_code == error.exit_code


def test_only_the_first_process_works() -> None:
    given: list[str] = []
    assert decide(Process(0, given), "file:///root", lambda: {"rewards": [0.1, -2.5e-300]}) == {
        "rewards": [0.1, -2.5e-300]
    }
    assert decide(Process(1, given), "file:///root", lambda: {"rewards": []}) == {"rewards": [0.1, -2.5e-300]}

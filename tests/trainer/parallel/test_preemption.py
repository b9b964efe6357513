"""One process: a signal is noticed at the next question, and SIGTERM is given back afterwards."""

import os
import signal

import pytest

from halcyon.parallel.preemption import PreemptionNotice
from halcyon.parallel.world import World


def test_a_signal_arrives_at_the_next_step_and_stays():
    before = signal.getsignal(signal.SIGTERM)
    with PreemptionNotice(World(0, 1)) as notice:
        assert not notice.arrived(1)
        os.kill(os.getpid(), signal.SIGTERM)
        assert notice.arrived(2)
        assert notice.arrived(3)
    assert signal.getsignal(signal.SIGTERM) == before


def test_alone_everything_is_agreed():
    world = World(0, 1)
    assert world.is_main
    assert world.agree({"step": 3, "name": "Zoë"}) == {"step": 3, "name": "Zoë"}
    world.barrier("anything")
    with pytest.raises(ValueError, match="process 0 must bring the document"):
        world.agree(None)

"""``halcyon`` whose processes measure their own work as often as they can: ``python -m
tests.trainer.support.own_work_child train RUN.YAML ...``.
"""

from __future__ import annotations

from halcyon.commands.main import app
from halcyon.run import own_work

if __name__ == "__main__":
    own_work._FIRST_SECONDS = own_work._SPACING = 0
    app()

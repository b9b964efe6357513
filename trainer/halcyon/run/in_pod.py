"""The trainer's process below the supervisor of its pod (`halcyon.host.agent`): ``python -m halcyon.run.in_pod
RUN.YAML``.

A spare process imports what a training needs and waits; a start in place then costs no imports.
"""

import os
import sys
from pathlib import Path

from halcyon.host.agent.link import Link


def main() -> None:
    """Run the task of the document, when the supervisor wants it."""
    link = Link(os.environ)
    if link.is_spare:
        import halcyon.run.train
        import halcyon.telemetry.history.writer  # noqa: F401 - for their imports
    link.wait_until_wanted()
    from halcyon.run.process import run_training

    cache = os.environ.get("HALCYON_COMPILATION_CACHE")
    run_training(
        Path(sys.argv[1]),
        os.environ,
        checkpoint_root=None,
        json_lines=None,
        compilation_cache=None if cache is None else Path(cache),
        link=link,
    )


if __name__ == "__main__":
    main()

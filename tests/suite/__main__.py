"""`python -m tests.suite`: runs the whole suite, or some parts of it."""

from __future__ import annotations

import argparse
import sys

from rich.console import Console

from tests.suite.run import Run
from tests.suite.tiers import SuitePart, Tier


def main() -> int:
    """Run the tier and the parts that the arguments name."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.suite", description="Run the test suite and report what it took."
    )
    parser.add_argument(
        "--tier", type=Tier, choices=list(Tier), default=Tier.TEST, help="how much to test (default: %(default)s)"
    )
    parser.add_argument(
        "parts",
        type=SuitePart,
        nargs="*",
        metavar="PART",
        help=f"{', '.join(SuitePart)} (default: the checks and all parts)",
    )
    arguments = parser.parse_args()
    parts = arguments.parts or list(SuitePart)
    return Run(arguments.tier, parts, Console(soft_wrap=True)).all(
        check=not arguments.parts and arguments.tier is not Tier.LONG
    )


if __name__ == "__main__":
    sys.exit(main())

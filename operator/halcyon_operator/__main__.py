"""``python -m halcyon_operator``: the operator's process.

It reads all settings from its environment (`model.settings`).
"""

from __future__ import annotations

import asyncio
import logging
import os
import sys

from halcyon_operator.kube.client import NoCluster
from halcyon_operator.kube.cluster import MissingApi
from halcyon_operator.model.settings import VARIABLE, InvalidSettings, parse_settings
from halcyon_operator.run.app import run_operator
from halcyon_operator.run.logs import set_up_logging

logger = logging.getLogger("halcyon_operator")


def main() -> int:
    """Reconcile the TrainingRuns of a cluster until a signal comes. Returns the exit code."""
    set_up_logging("info", "json")
    try:
        settings = parse_settings(os.environ.get(VARIABLE, "{}"))
        set_up_logging(settings.log.level, settings.log.format)
        asyncio.run(run_operator(settings, os.environ.get("HALCYON_POD_NAME", "")))
    except InvalidSettings as error:
        logger.error("%s; correct the chart's values", error)
        return 1
    except (NoCluster, MissingApi) as error:
        logger.error("%s", error)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""``python -m halcyon_operator``: the operator's process.

It reads all settings from its environment (`model.settings`), and logs to standard error.
"""

import asyncio
import logging
import os
import sys
from typing import Literal

from pythonjsonlogger.json import JsonFormatter

from halcyon_operator.kube.client import NoCluster
from halcyon_operator.kube.cluster import MissingApi
from halcyon_operator.model.settings import VARIABLE, InvalidSettings, parse_settings
from halcyon_operator.run.app import run_operator

LogFormat = Literal["json", "text"]
_QUIET = ("kopf.objects", "kopf._core.engines.peering", "aiohttp.access")
"""Loggers that repeat the operator's own messages, or log every event."""


def set_up_logging(level: str, log_format: LogFormat) -> None:
    """Send all log records of the process to standard error."""
    handler = logging.StreamHandler()
    if log_format == "json":
        handler.setFormatter(
            JsonFormatter(
                "{asctime}{levelname}{name}{message}",
                style="{",
                rename_fields={"asctime": "time", "levelname": "level", "name": "logger"},
                datefmt="%Y-%m-%dT%H:%M:%S%z",
            )
        )
    else:
        handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)-7s %(message)s", "%H:%M:%S"))
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    for name in _QUIET:
        logging.getLogger(name).setLevel(logging.WARNING)


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

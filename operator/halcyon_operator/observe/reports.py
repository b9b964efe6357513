"""Reads the answer of a trainer to a request for its progress report, without I/O.

A process runs code of users. So its answer must belong to this run, attempt and restart, and is not trusted.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import cast

from pydantic import ValidationError

from halcyon_api.status.progress import ProgressReport
from halcyon_operator.model.untrusted import LARGEST_EXACT, mapping
from halcyon_operator.model.views import ProcessGroup
from halcyon_operator.observe.pods import largest_claim

MAX_REPORT_BYTES = 65_536


@dataclass(frozen=True)
class ReportReading:
    """The report, or the reason why there is none."""

    report: ProgressReport | None = None
    problem: str = ""


def _names(schema: object) -> Iterator[str]:
    """Names of all fields of a schema, recursively."""
    if isinstance(schema, dict):
        found = cast("dict[str, object]", schema)
        yield from mapping(found.get("properties"))
        for child in found.values():
            yield from _names(child)


_FIELDS = frozenset(_names(ProgressReport.model_json_schema(by_alias=True)))
"""The only names of a report that an error message repeats; other text in a report is untrusted."""


def parse_report(body: bytes, run: str, group: ProcessGroup) -> ReportReading:
    """The report in an answer. Never raises."""
    try:
        report = ProgressReport.model_validate_json(body, by_alias=True, by_name=False)
    except ValidationError as error:
        fault = error.errors()[0]
        where = ".".join(str(part) for part in fault["loc"] if isinstance(part, int) or part in _FIELDS) or "document"
        return ReportReading(problem=f"its report is not valid: {where} ({fault['type']})")
    if report.run != run or (report.attempt, report.restart) != group:
        whose = "this" if report.run == run else "another"
        return ReportReading(
            problem=f"the address answers for attempt {report.attempt}, restart {report.restart} of {whose} run"
        )
    ends = report.ends_in_place or ()
    numbers = (*report.progress.counts, report.resumed_step or 0, report.in_place)
    numbers += tuple(max(end.number, end.process, end.step) for end in ends)
    numbers += tuple(largest_claim(end.report) for end in ends if end.report is not None)
    return (
        ReportReading(report)
        if max(numbers) <= LARGEST_EXACT
        else ReportReading(problem="its report has numbers that are too large")
    )

"""One table of the causes of an end: all lists of causes, counters, exit codes and reasons come from it."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from halcyon_api.ends import BY_EXIT_CODE, COUNTERS, HELD_REASONS, EndCause, ExitCode, cause_named
from halcyon_api.status.progress import TerminationReport
from halcyon_api.status.run_status import Restarts
from halcyon_dashboards.queries import RUN_HELD_BACK


def test_every_exit_code_has_one_cause_except_those_of_a_failure() -> None:
    codes = [cause.end.exit_code for cause in EndCause if cause.end.exit_code not in (None, ExitCode.FAILURE)]
    assert sorted(codes) == sorted(set(ExitCode) - {ExitCode.FAILURE, ExitCode.LEAVES_NODE})
    assert {BY_EXIT_CODE[code].exit_code for code in codes} == set(codes)


def test_every_counter_is_a_field_of_the_status_with_a_sentence() -> None:
    document = Restarts().model_dump(by_alias=True)
    assert [*document] == ["total", "inPlace", *COUNTERS]
    counters = [field for name, field in Restarts.model_fields.items() if name not in ("total", "in_place")]
    assert all(field.description and field.description.endswith(".") for field in counters)


def test_a_row_that_stops_or_delays_a_run_says_what_to_do() -> None:
    for cause in EndCause:
        assert bool(cause.end.reason) == bool(cause.end.fix), cause
        assert cause.end.reason or cause.end.budget not in ("store", "final"), cause


def test_the_alert_about_delayed_attempts_knows_each_reason() -> None:
    assert f'reason=~"{"|".join(HELD_REASONS)}"' in RUN_HELD_BACK


@pytest.mark.parametrize("cause", EndCause)
def test_a_trainer_reports_only_causes_with_an_exit_code(cause: EndCause) -> None:
    document = {"cause": cause.value, "exitCode": int(cause.exit_code), "message": "", "time": "2026-01-01T00:00:00Z"}
    if cause.end.exit_code is None:
        with pytest.raises(ValidationError, match=f"no trainer reports {cause}"):
            TerminationReport.model_validate(document)
    else:
        report = TerminationReport.model_validate(document)
        assert (report.cause, report.document()["cause"]) == (cause, cause.value)


def test_a_cause_of_another_version_counts_as_unknown() -> None:
    assert (cause_named("diverged"), cause_named("newer"), cause_named(None)) == (
        EndCause.DIVERGED,
        EndCause.UNKNOWN,
        EndCause.UNKNOWN,
    )

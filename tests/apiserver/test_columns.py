"""`kubectl get trainingruns --output wide`, as the API server prints it."""

from __future__ import annotations

import re

import pytest

from halcyon_api.status.plan import PlanStatus
from halcyon_api.status.progress import Progress
from halcyon_api.status.run_status import TrainingRunStatus
from halcyon_operator.decide.record.history import shown
from halcyon_operator.model.numbers import readable
from tests.api.documents import document
from tests.apiserver.api import Api

pytestmark = pytest.mark.slow

RAW = 345.71234567


def test_no_column_shows_more_digits_than_can_be_read(api: Api, namespace: str) -> None:
    run = document(metadata__name="columns")
    api.create(run, namespace)
    status = TrainingRunStatus(
        progress=shown(
            Progress(step=7, loss=2.2699123, tokens_per_second=RAW, evaluation_loss=RAW, bits_per_byte=RAW), None
        ),
        plan=readable(PlanStatus(fits=True, tokens_per_second=1234567.891, chip_hours=RAW, cost=1e-7 / 3)),
    ).document()
    api.patch(run, {"status": status}, namespace, subresource="status")
    cells = api.columns(run, namespace)
    assert (cells["Loss"], cells["Tokens/s"], cells["Held out"]) == ("2.2699", "345.71", "345.71")
    assert (cells["Planned tokens/s"], cells["Chip-hours"], cells["Cost"]) == ("1234600", "345.71", "3.3333e-08")
    assert not [cell for cell in cells.values() if re.search(r"\d[.]\d{5}", str(cell))]

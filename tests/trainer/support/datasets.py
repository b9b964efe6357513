"""The data of a run, for tests that do not watch its caches."""

from __future__ import annotations

from collections.abc import Callable

from halcyon.data.dataset import Dataset
from halcyon.data.open import dataset_of, ensure_caches
from halcyon_api.status.sources import Built
from halcyon_api.training_run import TrainingRunSpec


def open_dataset(
    spec: TrainingRunSpec, *, process: str = "local", report: Callable[[Built], object] = lambda built: None
) -> Dataset:
    """Builds the token caches of a run if they do not exist, and opens its data."""
    return dataset_of(spec, *ensure_caches(spec, process=process, report=report))

"""The data of a run, for tests that do not watch its caches."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from halcyon.data.cache.ensure import Caches
from halcyon.data.dataset import Dataset
from halcyon.data.open import cache_keeper, dataset_of
from halcyon.host.storage.store import Store
from halcyon_api.status.sources import Built
from halcyon_api.training_run import TrainingRunSpec


def ensure_caches(spec: TrainingRunSpec, **options: Any) -> tuple[Store, Caches]:
    """Builds the token caches of a run if they do not exist; the options are those of `cache_keeper`."""
    keeper = cache_keeper(spec, **options)
    return keeper.store, keeper.ensure()


def open_dataset(
    spec: TrainingRunSpec, *, process: str = "local", report: Callable[[Built], object] = lambda built: None
) -> Dataset:
    """Builds the token caches of a run if they do not exist, and opens its data."""
    return dataset_of(spec, *ensure_caches(spec, process=process, report=report))

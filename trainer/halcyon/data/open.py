"""Opens the data of a run: its token caches, made if they are not there, and on top of them the pure part, `Dataset`."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable, Mapping

import numpy as np

from halcyon.checkpoint.store import Store
from halcyon.data.cache.build import Built
from halcyon.data.cache.ensure import CacheKeeper, Caches
from halcyon.data.cache.ledger import Ledger
from halcyon.data.cache.reader import Memory, TokenReader
from halcyon.data.dataset import Dataset, SourceData
from halcyon.data.fetch import fetch_file
from halcyon.data.layout import Concatenate, Layout, build_layout, load_layout
from halcyon.data.mixture import build_mixture, rehearsed_sequences, stop_problem
from halcyon.data.order import build_order
from halcyon.data.schedule import Schedule, build_schedule
from halcyon.data.sources import Access
from halcyon.data.split import split_sequences
from halcyon.errors import BadConfiguration, DamagedData
from halcyon.tokenizer import load
from halcyon_api.checkpoint_documents import canonical_json
from halcyon_api.spec.checkpoint import CheckpointSpec
from halcyon_api.spec.data import DataSpec
from halcyon_api.spec.sources import DataSourceSpec
from halcyon_api.training_run import TrainingRunSpec


def cache_store(spec: TrainingRunSpec) -> Store:
    """The store of a run's token caches: `data.cache.root`, or `data` below the checkpoints."""
    root = spec.data.cache.root or f"{spec.checkpoint.root.rstrip('/')}/data"
    same_scheme = root.split("://")[0] == spec.checkpoint.root.split("://")[0]
    return Store(spec.checkpoint.model_copy(update={"root": root}) if same_scheme else CheckpointSpec(root=root))


def ensure_caches(spec: TrainingRunSpec, *, process: str, report: Callable[[Built], object] = lambda built: None) -> tuple[Store, Caches]:
    """Have the caches of a run ready.

    Args:
        spec: The run's spec.
        process: A name that no other process has.
        report: Is told how far a build is.

    Raises:
        BadConfiguration: A source or the tokenizer cannot be read, or is not what a cache was built from.
        TrainerExit: The caches' root does not answer, or is full.
    """
    store = cache_store(spec)
    access = Access.of(spec.checkpoint)
    keeper = CacheKeeper(spec.data, spec.tokenizer, store, access, lambda uri: fetch_file(uri, access), process, report)
    return store, keeper.ensure()


def open_dataset(spec: TrainingRunSpec, *, process: str = "local", report: Callable[[Built], object] = lambda built: None) -> Dataset:
    """Open the data of a run.

    Raises:
        BadConfiguration: There is no text, it cannot be read, or it is too little for what is asked. The sentence names the field.
        TrainerExit: The caches' root does not answer, or is full.
    """
    store, caches = ensure_caches(spec, process=process, report=report)
    return dataset_of(spec, store, caches)


def dataset_of(spec: TrainingRunSpec, store: Store, caches: Caches) -> Dataset:
    """The data set on top of finished caches.

    Raises:
        BadConfiguration: There is too little text for what is asked.
    """
    data, settings = spec.data, spec.trainer
    schedule = build_schedule(settings)
    run_tokens = schedule.tokens_before(settings.steps)
    memory = Memory(data.cache.memory_mebibytes * 2**20)
    sources: list[SourceData] = []
    for source in data.sources:
        ledger = caches.ledgers[source.name]
        reader = TokenReader(store, source.name, ledger, memory)
        layout = _layout(store, source, ledger, reader, schedule)
        if layout.sequences == 0:
            raise BadConfiguration(f"spec.data.sources[{source.name}]: its text makes no sequence; give it more text")
        split = split_sequences(layout.sequences, _held_out(source, data))
        simulated = data.mixture.simulate_tokens
        used = split.training
        if simulated is not None:
            used = rehearsed_sequences(split.training, run_tokens=run_tokens, simulate_tokens=simulated)
        sources.append(
            SourceData(
                name=source.name,
                tokens=reader,
                layout=layout,
                split=split,
                order=build_order(data.order, sequences=used, seed=settings.seed, source=source.name),
                used=used,
                description={
                    "contentSha256": ledger.content_sha256,
                    "tokens": ledger.tokens,
                    "documents": ledger.documents,
                    "sizeBytes": ledger.size_bytes,
                },
            )
        )
    mixture = build_mixture(data, {source.name: source.used for source in sources}, schedule, seed=settings.seed)
    if problem := stop_problem(mixture, schedule, pad_last=data.mixture.last_batch == "pad"):
        raise BadConfiguration(problem)
    dataset = Dataset(sources, load(caches.tokenizer), schedule, mixture)
    if dataset.validation_sequences == 0 and settings.evaluation.every_steps > 0:
        raise BadConfiguration(
            f"spec.data.validation.fraction: {data.validation.fraction:g} of {dataset.train_sequences} sequences holds none out, but "
            "spec.trainer.evaluation.everySteps asks for evaluations; raise the fraction, give more text, or set everySteps to 0"
        )
    return dataset


def _held_out(source: DataSourceSpec, data: DataSpec) -> float:
    return data.validation.fraction if source.validation is None else source.validation.fraction


def _layout(store: Store, source: DataSourceSpec, ledger: Ledger, reader: TokenReader, schedule: Schedule) -> Layout:
    """The layout of a source; one that takes time to build is kept beside the tokens, under a hash of all that decides it."""
    if source.layout.concatenate is not None:
        return Concatenate(ledger.tokens, schedule.longest)
    ends = reader.document_ends()
    decides = canonical_json([1, source.layout.document(), schedule.longest, ledger.content_sha256])
    key = f"{source.name}/layouts/{hashlib.sha256(decides).hexdigest()[:32]}"
    content = store.read(key).data
    if content is not None:
        return load_layout(source.layout, ends, sequence_length=schedule.longest, arrays=_unpacked(content, key))
    layout = build_layout(source.layout, ends, sequence_length=schedule.longest, source=source.name)
    store.create(key, _packed(layout.to_arrays()))
    return layout


def _packed(arrays: Mapping[str, np.ndarray]) -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, allow_pickle=False, **arrays)
    content = buffer.getvalue()
    return hashlib.sha256(content).digest() + content


def _unpacked(content: bytes, key: str) -> Mapping[str, np.ndarray]:
    digest, packed = content[:32], content[32:]
    if hashlib.sha256(packed).digest() != digest:
        raise DamagedData(f"{key} of the token cache is damaged; delete it, and it is made again")
    with np.load(io.BytesIO(packed), allow_pickle=False) as arrays:
        return dict(arrays)

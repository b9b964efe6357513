"""Opens the data of a run: builds its token caches if they do not exist, and makes the `Dataset`, which is pure, from
them.

The data is opened when the caches are complete or, where `streaming` allows it, when the first sequences are cached.
"""

import functools
import hashlib
import math
from collections.abc import Callable
from typing import Any

import numpy as np

from halcyon.data.batch_schedule import BatchSchedule, build_schedule
from halcyon.data.cache.arrays import load_arrays, store_arrays
from halcyon.data.cache.background import BackgroundCaches, CacheProgress
from halcyon.data.cache.ensure import CacheKeeper, Caches, RootUse
from halcyon.data.cache.ledger import Ledger
from halcyon.data.cache.reader import Memory, TokenReader
from halcyon.data.cache.tokenizers import inherited_tokenizer
from halcyon.data.dataset import Dataset, ValidationData
from halcyon.data.formats import begin_id
from halcyon.data.layout.concatenate import Concatenate
from halcyon.data.layout.packer import TOO_SHORT, Layout, packer_of
from halcyon.data.layout.prompts import PromptPacker, Prompts
from halcyon.data.layout.spans import arrays_of
from halcyon.data.mixture import build_mixture, rehearsed_sequences, stop_problem
from halcyon.data.order.epochs import Order
from halcyon.data.source_data import GrowingSource, Source, SourceData
from halcyon.data.sources import Access
from halcyon.data.sources.files import fetch_file
from halcyon.data.split import split_sequences, split_stream
from halcyon.data.streaming import is_local, positive_weights, run_streams
from halcyon.host.errors import BadConfiguration
from halcyon.host.storage.retry_budget import RetryBudget
from halcyon.host.storage.store import Store
from halcyon.tokenizer import Tokenizer, load
from halcyon_api.checkpoint_documents import canonical_json
from halcyon_api.counting import counted
from halcyon_api.spec.checkpoint import CheckpointSpec
from halcyon_api.spec.data import DataSpec
from halcyon_api.spec.origin import OriginSpec
from halcyon_api.spec.sources import DataSourceSpec
from halcyon_api.status.sources import Built
from halcyon_api.training_run import TrainingRunSpec


def cache_store(spec: TrainingRunSpec, retry_budget: RetryBudget | None = None) -> Store:
    """The store of a run's token caches: `data.cache.root`, or `data` below the checkpoints."""
    root = spec.data.cache.root or f"{spec.checkpoint.root.rstrip('/')}/data"
    same_scheme = root.split("://")[0] == spec.checkpoint.root.split("://")[0]
    place = spec.checkpoint.but(root=root) if same_scheme else CheckpointSpec(root=root)
    return Store(place, retry_budget=retry_budget)


def cache_keeper(
    spec: TrainingRunSpec,
    *,
    process: str,
    run: str = "",
    report: Callable[[Built], object] = lambda built: None,
    on_rebuild: Callable[[str], object] = lambda sentence: None,
    retry_budget: RetryBudget | None = None,
) -> CacheKeeper:
    """What finds the caches of a run, waits for the process that builds them, or builds them.

    Args:
        spec: The run's spec.
        process: A name that no other process has.
        run: The run of this process; an error of the builder ends all processes of the run. Empty: no run.
        report: Called with the progress of a build.
        on_rebuild: Called with one sentence before a cache is built again, because the document or a file has changed.
        retry_budget: Retries a root that rejects the credentials, and sources that deny access or do not answer.
            Default: no retries.

    Raises:
        BadConfiguration: The tokenizer of the run that this one starts from cannot be read.
        TrainerExit: The caches' root does not answer.
    """
    access = Access.of(spec.checkpoint)
    store = cache_store(spec, retry_budget)
    return CacheKeeper(
        data=spec.data,
        tokenizer=spec.tokenizer,
        sight=spec.model.sight,
        store=store,
        access=access,
        fetch=lambda uri: fetch_file(uri, access),
        name=process,
        root_use=functools.partial(_root_use, spec, retry_budget),
        shared=spec.data.cache.root is not None,
        report=report,
        on_rebuild=on_rebuild,
        run=run,
        inherited=inherited_tokenizer(spec, store),
        retry_budget=retry_budget,
    )


def background_caches(spec: TrainingRunSpec, keeper: Callable[[], CacheKeeper]) -> BackgroundCaches:
    """The caches of a run in a thread, which makes their keeper, and continues while the run trains, if `run_streams`
    allows it.
    """
    return BackgroundCaches(keeper, portion_tokens=_portions(spec) if run_streams(spec) else None)


def inspect_dataset(
    spec: TrainingRunSpec, *, process: str, on_rebuild: Callable[[str], object] = lambda sentence: None
) -> tuple[Dataset, Caches]:
    """Open the data of a run for inspection. If `run_streams` allows it, finished parts of caches are enough; else they
    are built.

    Args: See `cache_keeper`.

    Returns:
        The data and the caches.

    Raises:
        BadConfiguration: There is no text, it cannot be read, or there is too little of it for the spec. The message
            names the field.
        TrainerExit: The caches' root does not answer, or is full.
    """
    keeper = cache_keeper(spec, process=process, on_rebuild=on_rebuild)
    caches = keeper.poll() if run_streams(spec) else None
    if caches is None or not may_begin(spec, caches):
        caches = keeper.ensure()
    return dataset_of(spec, keeper.store, caches), caches


def may_begin(spec: TrainingRunSpec, caches: Caches) -> bool:
    """Whether the data can be opened: the caches are complete or, if `run_streams` allows it, hold the first sequences
    of each source.
    """
    if caches.finished(spec.data):
        return True
    stride = build_schedule(spec.trainer).longest + 1
    ledgers = [caches.ledgers.get(source.name) for source in spec.data.sources]
    # Of the first two sequences, one is for training and one is held out, unless the share is 0 or 1 (`split_stream`).
    return run_streams(spec) and all(
        ledger is not None and (ledger.finished or ledger.counts.tokens >= 2 * stride) for ledger in ledgers
    )


def validation_data(spec: TrainingRunSpec, store: Store, caches: Caches) -> ValidationData:
    """The held-out sequences of complete caches, for a run that only evaluates: the same as for a run that trains with
    this document.

    Raises:
        BadConfiguration: There are none.
    """
    by_weight = positive_weights(spec.data) if run_streams(spec) else None
    sources = _open_sources(spec, store, caches, None)
    validation = ValidationData(sources, load(caches.tokenizer), build_schedule(spec.trainer).longest, first=by_weight)
    if validation.validation_sequences == 0:
        raise BadConfiguration(
            f"spec.data.validation.fraction: {spec.data.validation.fraction:g} of the text is too little to hold out "
            "one sequence for evaluation; raise it, or set validation.fraction: 1 on a source to evaluate on all of it"
        )
    return validation


def dataset_of(spec: TrainingRunSpec, store: Store, caches: Caches, progress: CacheProgress | None = None) -> Dataset:
    """The data set on top of caches.

    Args:
        spec: The run's spec.
        store: The caches' root.
        caches: The caches: complete, or enough to begin (`may_begin`).
        progress: The progress of caches that are being built. Default: an incomplete cache does not grow.

    Raises:
        BadConfiguration: There is too little text for the spec.
    """
    data, settings = spec.data, spec.trainer
    policy = spec.objective.policy
    schedule = build_schedule(settings, 1 if policy is None else policy.group_size, begins=_begins(spec.origin))
    sources = _open_sources(spec, store, caches, progress)
    mixture = build_mixture(
        data, {source.name: source.snapshot.used for source in sources}, schedule, seed=settings.seed
    )
    if problem := stop_problem(mixture, schedule, pad_last=data.mixture.last_batch == "pad"):
        raise BadConfiguration(problem)
    by_weight = positive_weights(data) if run_streams(spec) else None
    dataset = Dataset(sources, load(caches.tokenizer), schedule, mixture, first_validation=by_weight)
    if dataset.validation_sequences == 0 and settings.evaluation.every_steps > 0:
        raise BadConfiguration(_no_validation(data, caches, schedule.longest))
    return dataset


def _no_validation(data: DataSpec, caches: Caches, length: int) -> str:
    """Why a run with evaluations has no held-out sequence, and the fix."""
    if not any(_validation(source, data) for source in data.sources):
        return (
            "spec.data.validation.fraction: it is 0, and spec.trainer.evaluation.everySteps asks for evaluations; "
            "raise it, or set everySteps to 0"
        )
    tokens = max(ledger.counts.tokens for ledger in caches.ledgers.values())
    lower = f"lower spec.trainer.sequenceLength to {tokens // 2 - 1}, " if tokens >= 4 else ""
    return (
        f"spec.data.sources: the text is too short: {counted(tokens, 'token')} make one sequence of {length}, and "
        f"evaluations need another one, which is held out; give more text, {lower}or set "
        "spec.trainer.evaluation.everySteps to 0"
    )


def _begins(origin: OriginSpec | None) -> tuple[int, int] | None:
    """The step and the position where a run begins; None: its first step has the first sequence."""
    if origin is None or origin.step is None or origin.data_position is None:
        return None
    return origin.step, origin.data_position


def _open_sources(spec: TrainingRunSpec, store: Store, caches: Caches, progress: CacheProgress | None) -> list[Source]:
    memory = Memory(spec.data.cache.memory_mebibytes * 2**20)
    tokenizer = load(caches.tokenizer)
    sources: list[Source] = []
    for source in spec.data.sources:
        ledger = caches.ledgers[source.name]
        snapshot = _Snapshots(spec, store, source, ledger, memory, tokenizer)
        sources.append(
            snapshot(ledger) if ledger.finished or progress is None else GrowingSource(source.name, progress, snapshot)
        )
    return sources


def _portions(spec: TrainingRunSpec) -> dict[str, int]:
    """Tokens of the smallest usable portion of a source: a shuffle window of training sequences and the held-out
    sequences among them.
    """
    sequences = spec.data.order.windows.sequences if spec.data.order.windows else 1
    stride = build_schedule(spec.trainer).longest + 1
    shares = {source.name: 1 - _validation(source, spec.data) for source in spec.data.sources}
    return {name: stride * (math.ceil(sequences / share) if share else 1) for name, share in shares.items()}


def _root_use(spec: TrainingRunSpec, retry_budget: RetryBudget | None) -> RootUse:
    # Imports JAX, which a build does not need otherwise.
    from halcyon.checkpoint.opening import load_head

    head, _ = load_head(Store(spec.checkpoint, retry_budget=retry_budget))
    return "unused" if head is None else "checkpoints" if head.committed or head.bad else "taken"


class _Snapshots:
    """Makes a source from its ledger. Later ledgers may be longer than the first one.

    Args:
        spec: The run's spec.
        store: The caches' root.
        source: The source.
        first: The ledger that is known at the start.
        memory: The memory that the sources share.
        tokenizer: The tokenizer of the cache.
    """

    def __init__(
        self,
        spec: TrainingRunSpec,
        store: Store,
        source: DataSourceSpec,
        first: Ledger,
        memory: Memory,
        tokenizer: Tokenizer,
    ) -> None:
        self._spec, self._store, self._source = spec, store, source
        self._reader = TokenReader(store, source.name, first, memory)
        self._schedule = build_schedule(spec.trainer)
        self._begin = begin_id(source.format, tokenizer)
        self._packer = packer_of(spec, source)
        self._description = _description_of_stream(first, self._reader, self._schedule) if run_streams(spec) else None

    def __call__(self, ledger: Ledger) -> SourceData:
        """The source with the text of a ledger."""
        data, settings, source = self._spec.data, self._spec.trainer, self._source
        self._reader.grow(ledger)
        layout = self._layout(ledger)
        if layout.sequences == 0:
            raise BadConfiguration(
                f"spec.data.sources[{source.name}]: {TOO_SHORT if self._packer is None else self._packer.empty}"
            )
        split = (split_stream if is_local(data.order) else split_sequences)(layout.sequences, _validation(source, data))
        used = split.training
        if (simulated := data.mixture.simulate_tokens) is not None:
            run_tokens = self._schedule.tokens_before(settings.steps)
            used = rehearsed_sequences(split.training, run_tokens=run_tokens, simulate_tokens=simulated)
        order = Order(data.order, sequences=used, seed=settings.seed, source=source.name)
        return SourceData(
            name=source.name,
            tokens=self._reader,
            layout=layout,
            split=split,
            order=order,
            used=used,
            description=self._description or ledger.description,
            begin_id=self._begin,
            turns=None if ledger.finished else order.settled,
        )

    def _layout(self, ledger: Ledger) -> Layout:
        """The layout. One that takes time to build is stored beside the tokens, under a hash of all its inputs."""
        packer, reader, length = self._packer, self._reader, self._schedule.longest
        if self._source.format.pair is not None:
            length -= 1  # of a row with vectors, all tokens are inputs
        if packer is None:
            return Concatenate(
                ledger.counts.tokens if ledger.finished else ledger.counts.tokens // (length + 1) * (length + 1), length
            )
        ends = reader.document_ends()
        decides = canonical_json([*packer.key, length, ledger.content_sha256])
        prefix = f"{self._source.name}/layouts/{hashlib.sha256(decides).hexdigest()[:32]}/"
        arrays = load_arrays(self._store, prefix)
        if arrays is None:
            built = arrays_of(packer.build(ends, reader, length))
            store_arrays(self._store, prefix, built)
            arrays = load_arrays(self._store, prefix) or built  # read again, because large arrays are then on disk
        layout: Layout = packer.make(**arrays, document_ends=ends, sequence_length=length)
        if isinstance(layout, Prompts) and isinstance(packer, PromptPacker):
            self._check_room(layout, packer.answer_tokens, ledger)
        return layout

    def _check_room(self, prompts: Prompts, answer_tokens: int, ledger: Ledger) -> None:
        """Check that a sequence has room for each prompt and an answer.

        Raises:
            BadConfiguration: A prompt is too long; or more rows are left out than `maxSkipped`.
        """
        longest, most = int(prompts.prompt_tokens.max(initial=0)), prompts.sequence_length - answer_tokens
        bad, rows = prompts.report.left_out + ledger.counts.skipped.bad_rows, ledger.counts.rows
        skips = self._source.on_bad_row == "skip"
        if longest > most and not (skips and bad <= self._source.max_skipped * rows):
            of_all = f"{bad:,} of {counted(rows, 'row')} cannot be used, more than the share of maxSkipped: "
            file, row = self._reader.origins_of(np.array([int(np.argmax(prompts.prompt_tokens))]))[0].tolist()
            where = f"row {row} (counted from 0)" + (f" of {ledger.files[file].uri}" if file >= 0 else "")
            raise BadConfiguration(
                f"spec.data.sources[{self._source.name}]: {of_all if skips else ''}the prompt of {where} has "
                f"{longest} tokens, and "
                f"spec.trainer.sequenceLength leaves {most} beside an answer of {answer_tokens}; raise it to "
                f"{longest + answer_tokens}, lower spec.objective.policy.maxTokens, or "
                f"{'raise maxSkipped' if skips else 'leave the row out (onBadRow: skip)'}"
            )


def _description_of_stream(ledger: Ledger, reader: TokenReader, schedule: BatchSchedule) -> dict[str, Any]:
    """Identifies the contents of a cache from the beginning of its build: hashes of the files' identities and of its
    first sequence.
    """
    first = np.array([0]), np.array([min(reader.tokens, schedule.longest + 1)])
    weights = reader.gather_weights(*first)
    contents = [reader.gather(*first).tobytes(), b"" if weights is None else weights.tobytes()]
    return {
        "filesSha256": ledger.files_sha256,
        "firstSequenceSha256": hashlib.sha256(b"".join(contents)).hexdigest(),
    }


def _validation(source: DataSourceSpec, data: DataSpec) -> float:
    return data.validation.fraction if source.validation is None else source.validation.fraction

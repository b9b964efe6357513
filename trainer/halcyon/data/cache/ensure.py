"""Provides the token caches of a run: finds them, waits for the process that builds them, or builds them.

All hosts of a run do this at the same time, independently. The first that writes the lock builds; the others poll the
ledgers until they are finished. Each state of the ledgers is passed to `on_caches`, because some runs may begin before
the caches are complete (see `background`).

A cache may differ from the run document: in the tokenizer, the format or a file. If a checkpoint may depend on it
(`RootUse`), it is rejected with the difference. Else the builder reports the difference and builds the cache again,
with a new tokenizer if that is trained on the text.
"""

import hashlib
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from itertools import chain, repeat
from pathlib import Path
from typing import Any, Literal

from halcyon.data.cache import work
from halcyon.data.cache.build import Replaced, SourceBuild
from halcyon.data.cache.election import Builder
from halcyon.data.cache.ledger import (
    LEDGER_KEY,
    DamagedLedger,
    FileEntry,
    Ledger,
    changed_file,
    decode,
    encode,
    identity,
)
from halcyon.data.cache.pool import TokenizerPool
from halcyon.data.cache.retries import SourceRetries
from halcyon.data.cache.tokenizers import InheritedTokenizer, read_tokenizer, store_tokenizer, tokenizer_key
from halcyon.data.formats import weight_type
from halcyon.data.formats.form_rows import form_of
from halcyon.data.formats.text import texts_of
from halcyon.data.sources import Access, SourceFile, pieces, read_pieces
from halcyon.data.sources.access import forget_clients
from halcyon.data.sources.listing import Listing, list_source
from halcyon.data.streaming import positive_weights
from halcyon.host.errors import BadConfiguration, DamagedData, DataUnreachable
from halcyon.host.roots import ways_out
from halcyon.host.storage.failures import StoreFailure, as_exit, explain
from halcyon.host.storage.retry_budget import RetryBudget
from halcyon.host.storage.store import Store
from halcyon.tokenizer import TokenizerDefinition, load
from halcyon.tokenizer.bpe import train_bpe
from halcyon.tokenizer.resolve import resolve
from halcyon_api.checkpoint_documents import TOKENIZERS_PREFIX
from halcyon_api.spec.data import DataSpec
from halcyon_api.spec.model_shape import ImageShape
from halcyon_api.spec.sources import DataSourceSpec
from halcyon_api.spec.tokenizer import TokenizerSpec
from halcyon_api.status.sources import Built

_POLL_SECONDS = 0.5
_WHAT = "spec.data.cache.root: the token cache"
RootUse = Literal["unused", "taken", "checkpoints"]
"""What a run has made in its checkpoint root: nothing; no checkpoint yet, but a process may be training; checkpoints.
"""


@dataclass(frozen=True)
class Caches:
    """The state of caches, and the tokenizer that makes them."""

    tokenizer: TokenizerDefinition
    ledgers: Mapping[str, Ledger]
    """Ledgers of the caches whose build has begun, by the source's name."""

    def finished(self, data: DataSpec) -> bool:
        """Whether the caches of all sources are complete."""
        return all((ledger := self.ledgers.get(source.name)) is not None and ledger.finished for source in data.sources)


@dataclass
class CacheKeeper:
    """The caches of a run below one root.

    Args:
        data: The run's data.
        tokenizer: The run's tokenizer.
        store: The caches' root.
        access: Access to the stores of the sources.
        fetch: Reads a whole file, for tokenizers.
        name: A name that no other process has.
        root_use: Reads the use of the run's checkpoint root.
        shared: Whether the caches are outside of that root, where other runs may use them.
        report: Called with the progress of a build. An exception in it ends the build.
        on_rebuild: Called with one sentence before a cache is built again.
        run: The run of this process; empty: no run.
        on_caches: Called with the state of the caches after each poll, and after every commit of a build.
        portion_tokens: Given if training begins while the caches are built: tokens of the smallest usable portion of
            each source. All sources then grow together, in proportion to their weights. Default: the sources are built
            one after the other.
        inherited: Given if the run starts from another run: the run takes the trained tokenizer of that run if it still
            exists.
        retry_budget: Retries sources that do not answer or deny access. Default: no retries.
        pause: Waits for a number of seconds.
        sight: The images that the run's model sees. None: none.
    """

    data: DataSpec
    tokenizer: TokenizerSpec
    store: Store
    access: Access
    fetch: Callable[[str], bytes]
    name: str
    root_use: Callable[[], RootUse]
    shared: bool
    report: Callable[[Built], object]
    on_rebuild: Callable[[str], object]
    run: str
    on_caches: Callable[[Caches], object] = lambda caches: None
    portion_tokens: Mapping[str, int] | None = None
    inherited: InheritedTokenizer | None = None
    retry_budget: RetryBudget | None = None
    pause: Callable[[float], None] = time.sleep
    sight: ImageShape | None = None

    def __post_init__(self) -> None:
        self._definition: TokenizerDefinition | None = None
        self._seen: dict[str, tuple[bytes, Ledger]] = {}
        self._outdated: dict[str, tuple[bytes, str]] = {}
        """The stored ledger and its difference, of each source whose cache is to be built again."""
        self._rebuilt = set[str]()
        self._retries = SourceRetries(self.retry_budget, forget_clients)
        sources = {source.name: source for source in self.data.sources}
        self._listing = cache(lambda name: self._list(sources[name]))
        self._hashed = cache(lambda name: _hashed(self._listing(name).files))
        self._form = cache(lambda name: form_of(sources[name], self._listing(name).files, self.access))

    def ensure(self) -> Caches:
        """The caches; builds them if they do not exist.

        Raises:
            BadConfiguration: A source or the tokenizer cannot be read, or differs from the one that a cache was built
                from.
            DataUnreachable: Its store did not answer, or denied access, until the retries ended; or the caches' root
                did not answer.
            TrainerExit: The caches' root is full, or cannot be used.
        """
        with self._errors_at_root():
            builder = Builder(self.store, self.name, run=self.run)
            while (caches := self._retries.retry(self.poll)) is None or not caches.finished(self.data):
                if builder.try_elect():
                    with builder:
                        self._retries.retry(self._errors_at_root()(self._build))
                else:
                    self.pause(_POLL_SECONDS)
            return caches

    def poll(self) -> Caches | None:
        """The current state of the caches, which may be incomplete; None: the tokenizer is not trained yet. Builds
        nothing.

        Raises:
            BadConfiguration, TrainerExit: See `ensure`.
        """
        with self._errors_at_root():
            definition = self._tokenizer()
            if definition is None:
                return None
            ledgers = {source.name: self._ledger(source, definition) for source in self.data.sources}
            caches = Caches(definition, {name: ledger for name, ledger in ledgers.items() if ledger is not None})
            self.on_caches(caches)
            return caches

    @contextmanager
    def _errors_at_root(self) -> Iterator[None]:
        try:
            yield
        except StoreFailure as failure:
            if failure.is_outage:
                raise DataUnreachable(explain(failure, self.store.root, what=_WHAT)) from failure
            raise as_exit(failure, self.store.root, what=_WHAT) from failure

    def _build(self) -> None:
        try:
            self._build_all()
        except Replaced:
            self.pause(_POLL_SECONDS)  # the other builder continues; this process polls again

    def _build_all(self) -> None:
        """Build the caches of all sources.

        Raises:
            Replaced: Another builder has written a ledger.
        """
        definition = self._tokenizer()
        if definition is None or not self._is_of_this_text(definition):
            definition = self._new_tokenizer()
        ledgers = {
            source.name: self._ledger(source, definition) or self._begin(source, definition)
            for source in self.data.sources
        }
        jobs = {source.name: self._job(source, definition, ledgers[source.name]) for source in self.data.sources}
        with TokenizerPool(
            tuple(jobs.values()), self.data.cache.workers, background=self.portion_tokens is not None
        ) as pool:
            growing = {
                source.name: self._growing(source, jobs[source.name], ledgers[source.name], pool)
                for source in self.data.sources
                if not ledgers[source.name].finished
            }
            try:
                while growing:
                    name = self._next(growing, ledgers)
                    ledger = next(growing[name], None)
                    if ledger is None:
                        del growing[name]
                    else:
                        ledgers[name] = ledger
                        self._retries.reset_deadline()
                        self.on_caches(Caches(definition, dict(ledgers)))
            finally:
                for source in growing.values():
                    source.close()

    def _is_of_this_text(self, definition: TokenizerDefinition) -> bool:
        """Whether a tokenizer can be kept: it was trained on the files that the ledgers record, or must not change."""
        recorded = [self._ledger(source, definition) for source in self.data.sources]
        return self.tokenizer.bpe is None or self.shared or all(recorded) or self.root_use() == "checkpoints"

    def _next(self, growing: Mapping[str, object], ledgers: Mapping[str, Ledger]) -> str:
        """The source that is built next, up to its next commit."""
        if self.portion_tokens is None:
            return next(iter(growing))
        tokens = {name: ledgers[name].counts.tokens for name in growing}
        return next_source(tokens, positive_weights(self.data), self.portion_tokens)

    def _growing(
        self, source: DataSourceSpec, job: work.Job, ledger: Ledger, pool: TokenizerPool
    ) -> Generator[Ledger, None, None]:
        files = self._listing(source.name).files
        build = SourceBuild(
            source.name, self.store, job, self.data.cache.shard_tokens, source.max_skipped, pool, self._built
        )
        rest = pieces(
            source, files, self.access, start_row=source.rows.start + ledger.counts.rows, begin=ledger.last_file
        )
        yield from build.run(ledger, rest, text_bytes=sum(file.size_bytes for file in files))

    def _built(self, built: Built) -> None:
        self._retries.source_answered()
        self.report(built)

    def _job(self, source: DataSourceSpec, definition: TokenizerDefinition, ledger: Ledger) -> work.Job:
        return work.Job(
            tokenizer=definition,
            format=source.format,
            where=_where(source),
            access=self.access,
            files=tuple(entry.uri for entry in ledger.files),
            token_type=ledger.token_type,
            weight_type=ledger.weight_type,
            form=ledger.form,
            sight=self.sight,
        )

    def _begin(self, source: DataSourceSpec, definition: TokenizerDefinition) -> Ledger:
        """Write an empty ledger, which replaces an outdated one.

        So the files are recorded before a tokenizer that was trained on them is used again.
        """
        largest = max(load(definition).vocab_size - 1, 2**16 - 1 if work.is_large(source.format, self.sight) else 0)
        listing = self._listing(source.name)
        ledger = Ledger(
            identity=identity(source, definition.fingerprint, self.sight),
            token_type="uint8" if largest < 2**8 else "uint16" if largest < 2**16 else "uint32",
            weight_type=weight_type(source.format),
            files=self._hashed(source.name),
            form=self._form(source.name),
            hidden=listing.hidden,
            excluded=listing.excluded,
            others=listing.others,
        )
        key = f"{source.name}/{LEDGER_KEY}"
        value = self.store.read(key)
        outdated, difference = self._outdated.pop(source.name, (None, ""))
        if value.data != outdated or self.store.swap(key, encode(ledger), value.generation) is None:
            raise Replaced(key)
        if difference:
            self._rebuilt.add(source.name)
            self.on_rebuild(
                f"{_where(source)}: {difference}; {self._root} has no checkpoint yet, so its tokens are made again"
            )
            if self.root_use() == "unused":  # else a process may still read them
                self.store.delete_prefix(f"{source.name}/shards/")
        return ledger

    def _ledger(self, source: DataSourceSpec, definition: TokenizerDefinition) -> Ledger | None:
        """The ledger of a source; None: there is none, or it is outdated.

        Raises:
            BadConfiguration: The cache was built from another identity or other files, and a checkpoint may depend on
                it.
            DamagedData: The ledger cannot be read.
        """
        content = self.store.read(f"{source.name}/{LEDGER_KEY}").data
        if content is None:
            return None
        if (seen := self._seen.get(source.name)) is not None and seen[0] == content:
            return seen[1]
        where = _where(source)
        try:
            ledger = decode(content)
        except DamagedLedger as damage:
            raise DamagedData(
                f"{where}: {self.store.root}/{source.name}: {damage}; delete the cache to rebuild it"
            ) from None
        difference = self._difference(source, definition, ledger)
        if difference is None:
            self._seen[source.name] = (content, ledger)
            self._outdated.pop(source.name, None)
            return ledger
        if ledger.shards:
            self._expect_free(source, difference)
        if self._outdated.get(source.name, (None, ""))[0] != content:  # else the first difference is the cause
            self._outdated[source.name] = content, difference if ledger.shards else ""
        return None

    def _difference(self, source: DataSourceSpec, definition: TokenizerDefinition, ledger: Ledger) -> str | None:
        """What differs between the document and the cache of a source, with its files; None: nothing."""
        wanted, recorded = identity(source, definition.fingerprint, self.sight), ledger.identity
        differing = sorted(name for name in wanted | recorded if wanted.get(name) != recorded.get(name))
        if differing:
            return f"its token cache was built with another {' and '.join(differing)}"
        changed = changed_file(_entries(self._listing(source.name).files), ledger.files)
        if changed is not None and (changed := changed_file(self._hashed(source.name), ledger.files)):
            return f"{changed}, since its token cache was built"
        return None

    def _expect_free(self, source: DataSourceSpec, difference: str) -> None:
        """Raise `BadConfiguration` unless the cache of a source may be built again."""
        where = f"{_where(source)}: {difference}"
        trained = self.root_use() == "checkpoints"
        if self.shared:
            own = f"spec.data.cache.root{' and spec.checkpoint.root' if trained else ''}"
            raise BadConfiguration(
                f"{where}, and other runs may use it; set it back to go on, or give the changed run a {own} of its own"
            )
        if trained:
            raise BadConfiguration(f"{where}, and {self._root} has checkpoints; {ways_out(self._root)}")
        if source.name in self._rebuilt:
            raise BadConfiguration(
                f"{where}: another process builds it at the same time for another document; "
                "give each run a spec.checkpoint.root of its own"
            )

    @property
    def _root(self) -> str:
        """The checkpoint root, if the caches belong to it."""
        return self.store.root.removesuffix("/data")

    def _list(self, source: DataSourceSpec) -> Listing:
        listing = list_source(source, self.access)
        self._retries.reset_deadline()
        return listing

    # Tokenizers

    def _tokenizer(self) -> TokenizerDefinition | None:
        """The tokenizer; None: it is not trained yet."""
        if self.tokenizer.bpe is not None:
            return read_tokenizer(self.store, self._tokenizer_key)
        if self._definition is None:
            self._definition = resolve(self.tokenizer, self.fetch)
            self._retries.reset_deadline()
        return self._definition

    @property
    def _tokenizer_key(self) -> str:
        sources = [
            {"name": source.name, "weight": source.weight} | identity(source, "", self.sight)
            for source in self.data.sources
        ]
        document: dict[str, Any] = {"tokenizer": self.tokenizer.document(), "sources": sources}
        if self.inherited is not None:
            document["from"] = self.inherited.source
        return tokenizer_key(document)

    def _new_tokenizer(self) -> TokenizerDefinition:
        spec = self.tokenizer.bpe
        assert spec is not None  # noqa: S101 - another tokenizer is not trained
        earlier = self.store.list(TOKENIZERS_PREFIX)  # of another document, or of the text before it changed
        if earlier and not self.shared and self.root_use() != "checkpoints":
            for key in earlier:
                self.store.delete(key)
        definition = self.inherited.find() if self.inherited is not None else None
        if definition is None:
            definition = train_bpe(self._sample(spec.sample_bytes), spec.vocab_size, tuple(spec.special_tokens))
        store_tokenizer(self.store, self._tokenizer_key, definition)
        return definition

    def _sample(self, size_bytes: int) -> Iterator[str]:
        """Texts of all sources, each source up to its share of the sample's bytes."""
        weights = [1.0 if source.weight is None else source.weight for source in self.data.sources]
        if all(source.weight is None for source in self.data.sources):
            weights = [
                float(sum(file.size_bytes for file in self._listing(source.name).files)) for source in self.data.sources
            ]
        total = sum(weights) or 1.0
        for source, weight in zip(self.data.sources, weights, strict=True):
            left = int(size_bytes * weight / total)
            parts = read_pieces(pieces(source, self._listing(source.name).files, self.access), self.access)
            rows = chain.from_iterable(parts)
            for text in texts_of(source.format, rows, where=_where(source), form=self._form(source.name)):
                if left <= 0:
                    break
                left -= len(text.encode(errors="replace"))
                yield text


def _where(source: DataSourceSpec) -> str:
    return f"spec.data.sources[{source.name}]"


def _entries(files: Iterable[SourceFile], digests: Iterable[str | None] = repeat(None)) -> tuple[FileEntry, ...]:
    return tuple(
        FileEntry(uri=file.uri, size_bytes=file.size_bytes, version=file.version, sha256=digest)
        for file, digest in zip(files, digests, strict=False)
    )


def _hashed(files: tuple[SourceFile, ...]) -> tuple[FileEntry, ...]:
    """The files, with a hash of the content of local files, because copies of the same file have different modification
    times.
    """

    def digest(file: SourceFile) -> str | None:
        path = file.uri.removeprefix("file://")
        if "://" in path or not Path(path).is_file():
            return None
        with Path(path).open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()

    with ThreadPoolExecutor() as pool:
        return _entries(files, pool.map(digest, files))


def next_source(tokens: Mapping[str, int], weights: Mapping[str, float], portions: Mapping[str, int]) -> str:
    """The source whose cached text training will use up first.

    Args:
        tokens: Cached tokens of each unfinished source.
        weights: Weights of the sources in the mixture, above 0.
        portions: Tokens of the smallest usable portion of each source.
    """

    def lasts(name: str) -> tuple[float, float]:
        return tokens[name] // portions[name] * portions[name] / weights[name], tokens[name] / weights[name]

    return min(tokens, key=lasts)

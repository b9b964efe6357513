"""The task ``data`` builds the token caches.

Its processes share only the root of the caches: they join no session and start no device.
"""

from collections.abc import Iterable

from halcyon.data.cache.ensure import CacheKeeper, Caches
from halcyon.data.open import cache_keeper
from halcyon.data.source_notes import SourceNote, source_notes, source_warnings
from halcyon.host.storage.store import Store
from halcyon.run.context import Context, Surroundings, check_context
from halcyon.telemetry import RunReporter
from halcyon.weights.chat_template import with_templates
from halcyon_api.counting import counted
from halcyon_api.training_run import TrainingRunSpec


def checked(context: Context) -> Context:
    """The run with the chat templates of its data, checked before any device is used.

    Raises:
        BadConfiguration: The run cannot be trained.
    """
    check_context(context)
    return context.with_spec(with_templates(context.spec))


def keeper_of(context: Context, reporter: RunReporter, around: Surroundings) -> CacheKeeper:
    """What builds the token caches of a run, or waits until another process has built them."""
    return cache_keeper(
        context.spec,
        process=context.process_name(),
        run=context.name,
        report=reporter.tokenized,
        on_rebuild=reporter.warning,
        retry_budget=around.retry_budget,
    )


def caches_of(context: Context, reporter: RunReporter, around: Surroundings) -> tuple[Store, Caches]:
    """Build the token caches of a run, or wait until another process has built them. Returns their store and them."""
    reporter.stage("tokenizing")
    keeper = keeper_of(context, reporter, around)
    return keeper.store, keeper.ensure()


def build_data(context: Context, reporter: RunReporter, around: Surroundings) -> str:
    """Build the token caches of a run, or wait until another process has built them.

    Args:
        context: The run and this process's place in it.
        reporter: Receives the progress.
        around: The program around it.

    Returns:
        One sentence with the contents of the caches.

    Raises:
        TrainerExit: The caches cannot be built; the class gives the cause and the exit code.
    """
    store, caches = caches_of(checked(context), reporter, around)
    if context.process_index == 0:
        report_warnings(reporter, context.spec, caches)
        report_sources(reporter, source_notes(caches))
    tokens = sum(ledger.counts.tokens for ledger in caches.ledgers.values())
    return (
        f"the token caches below {store.root} are complete: {counted(tokens, 'token')} in "
        f"{counted(len(caches.ledgers), 'source')}"
    )


def report_sources(reporter: RunReporter, notes: Iterable[SourceNote]) -> None:
    """Log what is left out of the sources."""
    for note in notes:
        reporter.event("source", note)


def report_warnings(reporter: RunReporter, spec: TrainingRunSpec, caches: Caches) -> None:
    """Log the warnings about the sources."""
    for warning in source_warnings(spec, caches):
        reporter.warning(warning)

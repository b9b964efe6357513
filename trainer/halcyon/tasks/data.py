"""A run that only builds the token caches. Its processes meet through the caches' root, so they join no session and start no device."""

from __future__ import annotations

from halcyon.context import Context, check_context, process_name, run_name
from halcyon.data.open import ensure_caches
from halcyon.storage.patience import Patience
from halcyon.telemetry import RunReporter
from halcyon_api.counting import counted


def build_data(context: Context, reporter: RunReporter, *, patience: Patience) -> str:
    """Build the token caches of a run, or wait until another process has built them.

    Args:
        context: The run and this process's place in it.
        reporter: Reports the progress.
        patience: Waits for stores that refuse the credentials.

    Returns:
        One sentence that says what the caches hold.

    Raises:
        TrainerExit: They cannot be built; the class says why and with which exit code.
    """
    check_context(context)
    reporter.stage("tokenizing")
    store, caches = ensure_caches(
        context.run.spec, process=process_name(context), run=run_name(context), report=reporter.tokenized, patience=patience
    )
    tokens = sum(ledger.tokens for ledger in caches.ledgers.values())
    return f"the token caches below {store.root} are whole: {counted(tokens, 'token')} in {counted(len(caches.ledgers), 'source')}"

"""Compares the token caches below a root with what its newest checkpoint says of the text that it was trained on."""

from typing import Any

from halcyon.checkpoint.opening import committed_steps
from halcyon.checkpoint.verify import readable
from halcyon.data.cache.ledger import LEDGER_KEY, DamagedLedger, decode
from halcyon.host.storage.store import Store
from halcyon_api.counting import counted


def read_caches(store: Store) -> tuple[str, tuple[str, ...]]:
    """Read the ledgers of the token caches below a root. The blocks of tokens are checked by each reader of them.

    Returns:
        What was read, in a few words, and the damages, one sentence for each.

    Raises:
        StoreFailure: The store did not answer.
    """
    sources: Any = None
    for _, manifest in readable(store, committed_steps(store)[:1]):
        data = manifest.fingerprints.documents.get("data")
        sources = data.get("sources") if isinstance(data, dict) else None
    if not isinstance(sources, dict):
        return "not read, because the newest checkpoint names no source", ()
    damages: list[str] = []
    compared, unread = 0, list[str]()
    for name, recorded in sources.items():
        content = store.read(f"data/{name}/{LEDGER_KEY}").data
        try:
            ledger = None if content is None else decode(content)
        except DamagedLedger as damage:
            damages.append(f"{name}: {damage}")
            continue
        if ledger is None or not ledger.finished or not isinstance(recorded, dict):
            unread.append(name)
            continue
        compared += 1
        says = ledger.description | {"filesSha256": ledger.files_sha256}
        if differing := sorted(key for key in recorded.keys() & says.keys() if recorded[key] != says[key]):
            damages.append(f"{name}: {LEDGER_KEY} and the newest checkpoint differ in {' and '.join(differing)}")
    words = f"{counted(compared, 'ledger')} as the newest checkpoint says; each reader checks the tokens"
    if unread:
        words += f"; not compared, because no finished cache is below this root: {', '.join(unread)}"
    return words, tuple(damages)

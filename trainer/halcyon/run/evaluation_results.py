"""The document with the results of a run of task ``evaluate``, as stored in its root. Pure."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from datetime import UTC, datetime

from pydantic import ValidationError

from halcyon.telemetry.evaluation import Evaluation, total
from halcyon_api.checkpoint_documents import CommittedStep, Fingerprints, Owner, canonical_json
from halcyon_api.result_documents import EvaluationDocument, SourceSums
from halcyon_api.spec.origin import OriginSpec

Found = Mapping[str, Evaluation]
"""Results by the name of the source."""


def evaluation_key(fingerprints: Fingerprints, origin: OriginSpec, batches: int | None) -> str:
    """SHA-256 (hex) of everything that decides the numbers, except the step of the checkpoint if the run names none."""
    document = {"sections": dict(fingerprints.sections), "from": origin.document(), "batches": batches}
    return hashlib.sha256(canonical_json(document)).hexdigest()


def parse_stored(content: bytes | None, owner: Owner, wanted: str) -> EvaluationDocument | None:
    """Parse the stored document.

    None if it is absent, not valid, or of another evaluation: its results can be computed again.
    """
    if content is None:
        return None
    try:
        document = EvaluationDocument.model_validate_json(content, by_alias=True, by_name=False)
    except ValidationError:
        return None
    return document if document.owner.same_run(owner) and document.decides == wanted else None


def results_of(document: EvaluationDocument) -> dict[str, Evaluation]:
    """The results in a document, with the same bits as when they were written."""
    return {
        one.source: Evaluation(float(one.nats), float(one.weight), one.size_bytes, one.sequences, one.seconds)
        for one in document.sources
    }


def document_of(
    found: Found,
    *,
    owner: Owner,
    run: str,
    root: str | None = None,
    checkpoint: CommittedStep,
    wanted: str,
    finished: bool,
    now: float,
) -> EvaluationDocument:
    """The document to store.

    Args:
        found: Results of the sources that are done, in their order.
        owner: The run that evaluates.
        run: The run whose checkpoint is evaluated.
        root: The root of that run.
        checkpoint: That checkpoint.
        wanted: See `decides`.
        finished: Whether all sources are done.
        now: Seconds since 1970.
    """
    whole = total(found.values())
    return EvaluationDocument(
        owner=owner,
        run=run,
        root=root,
        checkpoint=checkpoint,
        decides=wanted,
        sources=tuple(
            SourceSums(
                source=source,
                nats=repr(one.nats),
                weight=repr(one.weight),
                size_bytes=one.size_bytes,
                sequences=one.sequences,
                seconds=round(one.seconds, 6),
                loss=_finite(one.loss),
                bits_per_byte=_finite(one.bits_per_byte),
            )
            for source, one in found.items()
        ),
        finished=finished,
        loss=_finite(whole.loss),
        bits_per_byte=_finite(whole.bits_per_byte),
        time=datetime.fromtimestamp(now, UTC).isoformat(timespec="seconds").replace("+00:00", "Z"),
    )


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None

"""Which edits of a spec need a new attempt.

An attempt is made from one state of the spec, and its objects never change. `status.attemptSpecHash` remembers that state, without the
fields that the operator itself obeys or that can wait for the next attempt:

| field | an edit takes effect |
| --- | --- |
| `suspend`, `ttlSecondsAfterFinished`, `telemetry.statusIntervalSeconds` | at once, in the operator |
| `recovery.maxRestarts` | at once in the operator's count of failures; in the JobSet with the next attempt |
| `recovery.elastic`, `recovery.badNodes` | at once, in the operator's decisions |
| `imagePullPolicy` | with the next attempt |
| everything else | at once, by a new attempt |

Fields that have their default are left out, so that a newer version of the schema with more fields restarts nothing.
"""

from __future__ import annotations

import hashlib
import json
from typing import Any

from halcyon_api.training_run import TrainingRunSpec

_SCHEME = "1-"
"""How the hash is made. A hash of another scheme says nothing, and is taken to fit."""

RETIRED = _SCHEME + "retired"
"""In place of a hash: the attempt is over, whatever the spec says. It fits nothing."""

_NOT_RELEVANT: dict[str, Any] = {
    "image_pull_policy": True,
    "recovery": {"max_restarts": True, "elastic": True, "bad_nodes": True},
    "suspend": True,
    "telemetry": {"status_interval_seconds": True},
    "ttl_seconds_after_finished": True,
}


def attempt_spec_hash(spec: TrainingRunSpec) -> str:
    """Hash of what an attempt is made from."""
    document = spec.model_dump(mode="json", by_alias=True, exclude=_NOT_RELEVANT, exclude_defaults=True)
    canonical = json.dumps({key: value for key, value in document.items() if value != {}}, sort_keys=True, separators=(",", ":"))
    return _SCHEME + hashlib.sha256(canonical.encode()).hexdigest()[:40]


def fits(recorded: str | None, wanted: str) -> bool:
    """Whether an attempt made from the recorded state serves the wanted one."""
    return recorded is None or not recorded.startswith(_SCHEME) or recorded == wanted

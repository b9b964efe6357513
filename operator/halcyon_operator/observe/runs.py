"""Parses a TrainingRun document of the API server into a `RunView`.

Status and spec are parsed separately, so that a damaged status does not make a valid spec invalid, or the reverse.

A run is parsed every few seconds while it trains, and its spec seldom changes, so parsed specs are kept by their
text.

Of a run that another run waits for (`spec.after`, `spec.from`), only the phase and the run that it waits for are read.
"""

import functools
import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from halcyon_api import names
from halcyon_api.base import InvalidRun
from halcyon_api.edits.changes import recorded, values_of
from halcyon_api.mesh import pinned
from halcyon_api.places import rows_of
from halcyon_api.reading import parse_run
from halcyon_api.spec.checkpoint import normal_root, parse_root
from halcyon_api.status.requests import MAX_REQUEST_VALUE
from halcyon_api.status.run_status import TrainingRunStatus, parse_status
from halcyon_api.training_run import API_VERSION, KIND, TrainingRunSpec
from halcyon_api.validation import find_problems
from halcyon_operator.model.untrusted import Members, count, mapping, text, value_at
from halcyon_operator.model.views import Prerequisite, RunView
from halcyon_operator.objects.kueue import PREBUILT
from halcyon_operator.objects.owned_pods import CACHE_DIRECTORY
from halcyon_operator.observe.defaults import FoundDefaults, due, resolved_spec, taken

logger = logging.getLogger(__name__)
MAX_PROBLEM_TEXT = 2048
_KEPT_SPECS = 4096
"""Parsed specs that are kept.

The views of the watch cache hold the same objects, so a spec in use costs only its text more.
"""
LONGEST_CHAIN = 16
"""Maximum number of runs that are read for one run. The runs of the chain check their own prerequisites."""


@dataclass(frozen=True)
class _ParsedSpec:
    """A spec before the mesh of the run is known. The same object serves several views, so nothing in it changes."""

    spec: TrainingRunSpec | None = None
    problems: tuple[str, ...] = ()
    fields: Mapping[str, str] = field(default_factory=dict[str, str])
    suggested: TrainingRunSpec | None = None
    """The spec with the mesh that is suggested if the document has none."""
    rows: tuple[TrainingRunSpec, ...] = ()
    """The same in each row of hardware."""


def parse_run_view(document: object, defaults: FoundDefaults | None = None) -> RunView:
    """The view of a run, with its defaults.

    Never raises: errors in the document are in `problems`.

    Args:
        document: The run.
        defaults: Its defaults as they are now; None: not read, the recorded ones apply.
    """
    metadata = mapping(value_at(document, "metadata"))
    status = parse_status(value_at(document, "status"))
    took = taken(document, status, defaults)
    raw_spec = resolved_spec(document, took.values)
    parsed = _ParsedSpec(problems=(took.problem,)) if took.problem else _parse_spec(metadata, raw_spec)
    row = status.placement.row if status.placement else 0
    if parsed.spec is not None and 0 < row < len(parsed.rows):
        parsed = replace(parsed, suggested=parsed.rows[row])
        raw_spec = parsed.rows[row].document()
    spec, workload = _with_mesh(parsed, status), text(value_at(metadata, "annotations", PREBUILT))
    if spec is not None and workload:  # its Workload has the quota, so its JobSets must not wait for more
        scheduling = spec.scheduling.but(queue=None)
        spec = spec.but(scheduling=scheduling)
    return RunView(
        namespace=text(metadata.get("namespace")) or "default",
        name=text(metadata.get("name")),
        uid=text(metadata.get("uid")),
        generation=count(metadata.get("generation")),
        resource_version=text(metadata.get("resourceVersion")),
        deleting=metadata.get("deletionTimestamp") is not None,
        spec=spec,
        problems=parsed.problems,
        status=status,
        save_request=text(value_at(metadata, "annotations", names.ANNOTATION_CHECKPOINT), MAX_REQUEST_VALUE),
        restart_request=text(value_at(metadata, "annotations", names.ANNOTATION_RESTART), MAX_REQUEST_VALUE),
        fields=dict(parsed.fields),
        defaults=took.record,
        defaults_due=due(document, status),
        rows=parsed.rows,
        workload=workload,
        raw_spec=raw_spec,
        raw_status=mapping(value_at(document, "status")),
    )


def _parse_spec(metadata: Members, raw_spec: Members) -> _ParsedSpec:
    place = {
        name: metadata[name] for name in ("name", "namespace") if name in metadata
    }  # some rules compare the spec with it
    try:
        try:
            return _kept(json.dumps([place, raw_spec]))
        except (RecursionError, ValueError):  # deeper than any valid spec, or with a number longer than any valid one
            return _parsed(place, raw_spec)
    except Exception as error:
        # A document that a check cannot handle must leave its run suspendable.
        logger.exception("%s: a check of its document failed", place)
        problem = f"spec: a check of this document failed ({type(error).__name__}); the operator's log has the reason"
        return _ParsedSpec(problems=(problem,))


@functools.lru_cache(maxsize=_KEPT_SPECS)
def _kept(source: str) -> _ParsedSpec:
    return _parsed(*json.loads(source))


def _parsed(place: Members, raw_spec: Members) -> _ParsedSpec:
    try:
        spec = parse_run({"apiVersion": API_VERSION, "kind": KIND, "metadata": place, "spec": raw_spec}).spec
    except InvalidRun as error:
        return _ParsedSpec(problems=(text(str(error), MAX_PROBLEM_TEXT),))
    rows = rows_of(spec)
    in_cluster = (problem for row in rows for problem in _cluster_problems(row))
    problems = tuple(dict.fromkeys((*map(str, find_problems(spec)), *in_cluster)))
    if problems:
        return _ParsedSpec(problems=problems)
    rows = tuple(map(pinned, rows))
    return _ParsedSpec(spec, fields=recorded(values_of(spec)), suggested=rows[0], rows=rows)


def _with_mesh(parsed: _ParsedSpec, status: TrainingRunStatus) -> TrainingRunSpec | None:
    """The spec with a mesh: that of the document, else the recorded one, else the suggested one.

    It must not change without an edit. In a run with several rows of hardware, it depends on the row alone.
    """
    if parsed.spec is None or status.topology is None or len(parsed.rows) > 1:
        return parsed.suggested  # each row has its own, whatever the run did before
    recorded = pinned(parsed.spec, status.topology.mesh)
    return parsed.suggested if recorded == parsed.suggested or find_problems(recorded) else recorded


def _cluster_problems(spec: TrainingRunSpec) -> tuple[str, ...]:
    """Problems of a spec that is valid on a laptop but not in a cluster."""
    problems: list[str] = []
    if spec.checkpoint.root.startswith("file://") and spec.checkpoint.volume_claim is None:
        problems.append(
            "spec.checkpoint.volumeClaim: a file:// root in a cluster needs a PersistentVolumeClaim, because the files "
            "in a pod are lost when the pod ends; set one, or use an s3:// or gs:// root"
        )
    exports, claim = spec.export.place(spec.checkpoint).root if spec.export else "", spec.checkpoint.volume_claim
    if exports.startswith("file://") and not (
        claim and normal_root(exports).startswith(f"{normal_root(spec.checkpoint.root)}/")
    ):
        problems.append(
            "spec.export.root: a file:// folder in a cluster must lie below the file:// root of checkpoint, on its "
            "volumeClaim, because "
            "the files in a pod are lost when the pod ends; leave export.root out, or use s3:// or gs://"
        )
    if spec.data.volume is not None:
        paths = [names.RUN_DOCUMENT_DIRECTORY, "/tmp", CACHE_DIRECTORY]  # noqa: S108 a mount point inside the pod
        paths += [parse_root(spec.checkpoint.root).path] if claim else []
        if taken := [path for path in paths if _nested(path, spec.data.volume.mount_path)]:
            problems.append(
                f"spec.data.volume.mountPath: {spec.data.volume.mount_path} overlaps {taken[0]}, where the pod has "
                "something else; choose another path"
            )
    accelerator = spec.accelerator
    if accelerator.row.family == "tpu" and accelerator.slices > 1 and accelerator.resolve().hosts_per_slice == 1:
        problems.append(
            f"spec.accelerator.slices: GKE connects only slices of several hosts, and a {accelerator.topology} slice "
            "has one; choose a topology of at least 8 chips, or one slice"
        )
    if accelerator.provisioning == "queued" and spec.scheduling.queue is None:
        problems.append(
            "spec.accelerator.provisioning: Kueue requests queued nodes, so without a queue the pods wait forever; set "
            "spec.scheduling.queue.name, or choose another provisioning"
        )
    return tuple(problems)


def _nested(first: str, second: str) -> bool:
    return f"{first}/".startswith(f"{second}/") or f"{second}/".startswith(f"{first}/")


def parse_prerequisite(name: str, document: object) -> Prerequisite:
    """The view of a run that another run waits for; the document is None if no run has this name."""
    if document is None:
        return Prerequisite(name)
    status = parse_status(value_at(document, "status"))
    ready, waits = status.condition("Ready"), status.phase != "Succeeded" and status.attempt == 0
    after = text(value_at(document, "spec", "after", "run")) if waits else ""
    return Prerequisite(name, status.phase, ready.message if ready else "", after)

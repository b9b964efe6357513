"""The automatic values of a run (`halcyon.run.auto_tuning`), as its checkpoint root keeps them.

The choice belongs to the run: another number of microbatches adds gradients in another order. So the first attempt
records it in the root before its first step, and every later attempt on the same mesh takes the recorded one, even if a
later compiler needs more or less memory.
"""

import hashlib
import json
from typing import Any

from jax.sharding import Mesh

from halcyon.checkpoint.processes import decide
from halcyon.host.errors import BadConfiguration, TrainerExit
from halcyon.host.storage.store import Store
from halcyon.run.auto_tuning import Choice, chosen, is_automatic, memory_of, own_rates
from halcyon.run.place import Place
from halcyon_api.base import ApiModel
from halcyon_api.checkpoint_documents import CHOICES_PREFIX, Owner, canonical_json
from halcyon_api.spec.mesh import ResolvedMesh
from halcyon_api.training_run import TrainingRunSpec

_DECIDES = (
    "batchSize",
    "sequenceLength",
    "batchSchedule",
    "microbatches",
    "remat",
    "unroll",
    "offload",
    "attention",
    "determinism",
    "precision",
)
"""Fields of ``spec.trainer`` that decide how much memory a step needs."""


class RunChoice:
    """The choice of a run with automatic fields. All methods are collectives of all processes.

    Args:
        place: The run and its mesh.
    """

    def __init__(self, place: Place) -> None:
        self._processes, self._store, self._spec = place.processes, place.root(), place.spec
        self._key = choice_key(self._spec, place.context.mesh, place.context.owner)
        self._new = None

    def find(self, vocabulary: int, mesh: Mesh) -> Choice | None:
        """The recorded choice, or a new one; None if no field is automatic.

        Args:
            vocabulary: Number of tokens of the tokenizer.
            mesh: The device mesh.

        Raises:
            TrainerExit: No step fits, or the root does not answer.
        """
        if not is_automatic(self._spec):
            return None

        def recorded() -> dict[str, Any]:
            choice = read_choice(self._store, self._key)
            return {} if choice is None else choice.document()

        known = decide(self._processes, self._store.root, recorded)
        if known:
            return Choice.of(known)
        memory = self._processes.agree({"bytes": memory_of(self._spec)})["bytes"]
        self._new, _ = chosen(
            self._spec,
            vocabulary,
            mesh,
            memory,
            own_rates(self._spec, mesh),
            lambda answer: bool(self._processes.agree({"answer": answer})["answer"]),
        )
        return self._new

    def keep(self) -> None:
        """Record a new choice. Call it once this process group owns the root, and before its first step.

        Raises:
            TrainerExit: Another process group has recorded another choice meanwhile, or the root does not answer.
        """
        new, root = self._new, self._store.root
        if new is None:
            return
        if not decide(self._processes, root, lambda: {"kept": keep_choice(self._store, self._key, new)})["kept"]:
            raise TrainerExit(
                f"another start of the run has recorded other automatic values in {root} meanwhile; start it again"
            )


def choice_key(spec: TrainingRunSpec, mesh: ResolvedMesh, owner: Owner) -> str:
    """Where a checkpoint root keeps a choice: a hash of the run and of all that decides how much memory its step needs.

    The hash leaves out values that are defaults. So it stays the same in a later version, which has further fields.
    """
    depends = {
        "owner": [owner.namespace, owner.name],
        "mesh": _without_defaults(mesh),
        "accelerator": spec.accelerator.type,
        "model": _without_defaults(spec.model),
        "trainer": {name: value for name, value in _without_defaults(spec.trainer).items() if name in _DECIDES},
        **({} if spec.adapter is None else {"adapter": _without_defaults(spec.adapter)}),
    }
    return f"{CHOICES_PREFIX}{hashlib.sha256(canonical_json(depends)).hexdigest()[:32]}.json"


def _without_defaults(section: ApiModel) -> dict[str, Any]:
    return section.model_dump(mode="json", by_alias=True, exclude_none=True, exclude_defaults=True)


def read_choice(store: Store, key: str) -> Choice | None:
    """The choice that a root keeps; None: it keeps none.

    Raises:
        BadConfiguration: The file is damaged.
        StoreFailure: The root does not answer.
    """
    data = store.read(key).data
    try:
        return None if data is None else Choice.of(json.loads(data))
    except (ValueError, KeyError, TypeError):
        raise BadConfiguration(
            f"{store.root}/{key} is damaged; give trainer.microbatches, remat and offload the values of the run's "
            "first log instead of auto"
        ) from None


def keep_choice(store: Store, key: str, choice: Choice) -> bool:
    """Record a choice, unless one is recorded. False: another one is recorded.

    Raises:
        StoreFailure: The root does not answer.
    """
    return store.create(key, json.dumps(choice.document()).encode())

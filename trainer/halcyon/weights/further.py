"""Reads layers that predict further tokens: from the files of a model, or from the parts that a checkpoint root keeps
(`halcyon.weights.kept`), in which an import has put them."""

import dataclasses
import functools
from collections.abc import Collection
from typing import Any

from halcyon.host.errors import BadConfiguration
from halcyon.host.storage.store import Store
from halcyon.models import CausalLM
from halcyon.models.axes import VOCAB
from halcyon.models.families.lookup import published_of_section
from halcyon.models.parameters import matching, split
from halcyon.weights.folder import ModelConfig
from halcyon.weights.kept import KeptParts, read_kept
from halcyon.weights.layout import ReadRegion, WeightLayout, leaf_shapes
from halcyon.weights.root import StoredModel
from halcyon_api.spec.families.section import ModelSection

_LAYERS, _SCORE = _OWN = "further_blocks.", "score."
_FIELD = "num_nextn_predict_layers"


def without_further(template: CausalLM) -> CausalLM:
    """Shapes of a model, with None in the place of its layers that predict further tokens, and of its head of labels. A
    model has one of them at most.
    """
    return split(template, matching(template, [f"{one}*" for one in _OWN]))[1]


def _are_there(layout: WeightLayout, names: Collection[str], where: str) -> bool:
    """Whether files have the layers of a model that predict further tokens.

    Args:
        layout: The layout of the model, with these layers.
        names: The names of the tensors of the files.
        where: The place of the files, for the message.
    """
    needed = {name for path in layout.leaves if path.startswith(_LAYERS) for name in layout.tensors_of(path)}
    if missing := needed - set(names):
        if missing != needed:
            raise BadConfiguration(
                f"spec.model.numNextnPredictLayers: {where} has no tensor {min(missing)}; set it to the number of "
                "layers that predict further tokens there"
            )
        return False
    return bool(needed)


def with_further(config: ModelConfig, spec: ModelSection, template: CausalLM, store: Store) -> tuple[bool, ModelConfig]:
    """Whether a folder has the layers of a run that predict further tokens (or the run has none), and its configuration
    with them.

    Args:
        config: The configuration of the folder, without them.
        spec: ``spec.model`` of the run.
        template: Shapes of the run's model.
        store: The folder.

    Raises:
        BadConfiguration: It has only some of them.
        StoreFailure: The store did not answer.
    """
    if spec.classes and not config.spec.classes:
        return False, dataclasses.replace(config, spec=config.spec.but(labels=[]))
    count: int | None = getattr(spec, _FIELD, None)
    if count is None:
        return True, config
    asked = dataclasses.replace(config, spec=config.spec.but(**{_FIELD: count}))
    names = config.files(store).tensors
    layout = WeightLayout(config.form.tensors_in(asked.spec, names), leaf_shapes(template))
    found = _are_there(layout, names, store.root)
    return found, asked if found else config


def read_further(spec: ModelSection, stored: StoredModel, template: CausalLM) -> tuple[ReadRegion, bool]:
    """How the parameters of a checkpoint are read, and whether it has the layers of a run that predict further tokens.

    Args:
        spec: ``spec.model`` of the run.
        stored: The model of the checkpoint.
        template: Shapes of the run's model.

    Raises:
        BadConfiguration: See `with_further`.
        Damaged: The document of the kept parts is damaged.
    """
    leaves, read = leaf_shapes(template), stored.arrays.read
    further = [leaf.path for leaf in leaves if leaf.path.startswith(_OWN)]
    if not further or further[0] in stored.arrays.leaves:
        return read, True
    kept = read_kept(stored.root)
    if kept is None:
        return read, False
    tensors, rows = kept.files.tensors, kept.files.rows
    layout = WeightLayout(published_of_section(spec).tensors_in(spec, tensors), leaves, {VOCAB: kept.listed.tokens})

    def of_both(path: str, region: Any) -> Any:
        return layout.read(path, region, rows) if path.startswith(_LAYERS) else read(path, region)

    return of_both, _are_there(layout, tensors, stored.root.root)


def still_kept(kept: KeptParts, spec: ModelSection) -> KeptParts | None:
    """The kept parts without the layers that a run of the model `spec` trains; None: nothing is left."""
    names = {one.name for one in kept.listed.tensors}
    part = functools.partial(published_of_section(spec).tensors(spec).part, names=names)
    tensors = tuple(one for one in kept.listed.tensors if part(one.name) is not None)
    return dataclasses.replace(kept, listed=kept.listed.but(tensors=tensors)) if tensors else None

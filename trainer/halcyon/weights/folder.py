"""A folder with a model: its configuration, and its parameters read in regions."""

import dataclasses
import re
from collections.abc import Mapping, Sequence

import equinox as eqx
import haliax as hax
import jax
import jax.numpy as jnp
import numpy as np
from pydantic import ValidationError

from halcyon.data.sources.failures import is_outage
from halcyon.host.errors import BadConfiguration, DataUnreachable
from halcyon.host.storage.store import Store
from halcyon.models import CausalLM, build_model
from halcyon.models.axes import POSITION, VOCAB
from halcyon.models.families.lookup import published_of_config
from halcyon.models.published.config import ConfigReader, PublishedModel, require_common
from halcyon.weights.companions import CONFIG_KEY
from halcyon.weights.kept import Kept, KeptParts, KeptTensor
from halcyon.weights.layout import LeafShape, Region, WeightLayout, leaf_shapes
from halcyon.weights.narrow import NarrowFiles
from halcyon.weights.peft_files import PeftFolder
from halcyon.weights.safetensors import StoredTensor, TensorFiles, is_finite, unreadable
from halcyon_api.local_roots import root_address
from halcyon_api.plain_files import user_path
from halcyon_api.sentences import first_fault
from halcyon_api.spec.checkpoint import CheckpointSpec
from halcyon_api.spec.families.section import ModelSection

HUB = "hf://"
_FILES = "hf:"
_HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+")
_HEADS = ("lm_head.weight", "language_model.lm_head.weight")
_COMPARED_BYTES = 1 << 24
FILES = ("*.json", "*.safetensors", "*.model", "*.jinja", "*.txt")
"""Patterns of the files of a model."""


@dataclasses.dataclass(frozen=True)
class ModelConfig:
    """The configuration of a model in a folder.

    Attributes:
        form: Its form.
        spec: ``spec.model`` of a run with this model.
        tokens: Tokens of its vocabulary.
        positions: Longest sequence in tokens.
        narrow: The config.json, if the weights beside it are in few bits.
    """

    form: PublishedModel
    spec: ModelSection
    tokens: int
    positions: int
    narrow: ConfigReader | None

    def files(self, store: Store, dtype: np.dtype | None = None) -> TensorFiles:
        """The tensors of the folder; weights in few bits are rounded to `dtype`, or to the type of their form.

        Raises:
            BadConfiguration: See `TensorFiles` and `NarrowFiles`.
            StoreFailure: The store did not answer.
        """
        return TensorFiles(store) if self.narrow is None else NarrowFiles(store, self.narrow, dtype)


def model_shapes(spec: ModelSection, tokens: int, positions: int) -> CausalLM:
    """The shapes of a model: the vocabulary has `tokens` rows, the longest sequence `positions` tokens."""
    return eqx.filter_eval_shape(
        build_model, spec, hax.Axis(VOCAB, tokens), hax.Axis(POSITION, positions), key=jax.random.key(0)
    )


def read_config(store: Store, name: str = CONFIG_KEY, *, images: bool = False) -> ModelConfig:
    """The configuration of a folder, in the file of this name; for `images` see `published_of_config`.

    Raises:
        BadConfiguration: It cannot be read, or is of a model that Halcyon does not have.
        StoreFailure: The store did not answer.
    """
    data = store.read(name).data
    if data is None:
        raise BadConfiguration(f"{store.root} has no {name}; give the folder of a model")
    config = ConfigReader.parse(data, f"{store.root}/{name}")
    narrow = None if config.inner("quantization_config") is None else config
    form = published_of_config(config, images=images)
    config = form.completed(config)
    require_common(config, encodes=form.encodes)
    try:
        spec = form.section(config)
    except ValidationError as error:
        raise BadConfiguration(f"{config.where}: {first_fault(error)}") from None
    sizes = {key: config.integer(key) for key in ("vocab_size", form.positions)}
    for key, size in sizes.items():
        if size < 1:
            raise BadConfiguration(f"{config.where}: {key} is {size}; it must be at least 1")
    return ModelConfig(form, spec, sizes["vocab_size"], sizes[form.positions], narrow)


class ModelFolder:
    """The parameters of a model in a folder, by their paths in the model. Several threads may read.

    Args:
        store: The folder.
        shapes: The model to read into. Its vocabulary may have more or fewer rows than the files, and its longest
            sequence may be shorter.
        dtype: Type of all parameters. None: the type of the files.
        adapter: An adapter to add to the weights.

    Raises:
        BadConfiguration: The files or the adapter are not those of the configuration; the message names the tensor.
        StoreFailure: The store did not answer.
    """

    def __init__(
        self,
        store: Store,
        config: ModelConfig,
        shapes: CausalLM,
        dtype: np.dtype | None = None,
        adapter: PeftFolder | None = None,
    ) -> None:
        self.config, self._files, self._where = config, config.files(store, dtype), store.root
        self._declared = declared = config.form.tensors_in(config.spec, self._files.tensors)
        leaves = leaf_shapes(shapes)
        sizes = {VOCAB: config.tokens, POSITION: config.positions}
        if shapes.max_position.size > config.positions and any(POSITION in leaf.axes for leaf in leaves):
            raise BadConfiguration(
                f"the model in {store.root} has learned positions for {config.positions} tokens, not for "
                f"{shapes.max_position.size}; set spec.trainer.sequenceLength to at most {config.positions}"
            )
        layout = WeightLayout(declared, leaves, sizes)
        there = self._files.tensors
        self._names = _names(layout, there, store.root)
        for name in self._names.values():
            if not (tensor := there[name]).is_readable:
                raise unreadable(name, tensor.file, tensor.type)
        layout.check({own: there[name].shape for own, name in self._names.items()})
        self._check_tied(layout)
        self._adapter = None if adapter is None else adapter.fitted(layout, shapes)
        layout.check_constants(self._names, self._rows)
        self.layout = WeightLayout(declared, [self._typed(layout, leaf, dtype) for leaf in leaves], sizes)
        """Its `leaves` have the types in which they are read."""

    def read(self, path: str, region: Region) -> np.ndarray:
        """A region of a parameter. Rows of the vocabulary that the files do not have are zero.

        Raises:
            BadConfiguration: It has NaN or infinite numbers.
            StoreFailure: The store did not answer.
        """
        with np.errstate(over="ignore"):
            values = self.layout.read(path, region, self._rows)
        if not is_finite(values):
            fix = "import it as bfloat16 or float32" if values.dtype == np.float16 else "take another model"
            raise BadConfiguration(f"{self._where}: {path} has numbers beyond the range of {values.dtype.name}; {fix}")
        return values

    def kept(self) -> KeptParts | None:
        """The parts of the model that Halcyon does not train; None: the files have none."""
        there, names = self._files.tensors, {}
        tensors = tuple(
            KeptTensor(name=name, part=part, **vars(one))
            for name, one in there.items()
            if (part := self._declared.part(name, there)) is not None
        )
        if any(re.match(image, one.name) for image in self._declared.images for one in tensors):
            for first, end in (("model", ".norm.weight"), ("lm_head", ".weight")):
                names[first] = self._names.get(f"{first}{end}", first).removesuffix(end)
        listed = Kept(tensors=tensors, tokens=self.config.tokens, names=names)
        return KeptParts(self._files, listed) if tensors else None

    def _check_tied(self, layout: WeightLayout) -> None:
        """Compare a head in the files of a model without a head of its own with the embedding: readers differ in
        whether they use it.
        """
        tensors = self._files.tensors
        head = next((name for name in _HEADS if name in tensors and name not in self._names.values()), None)
        if head is None or getattr(self.config.spec, "labels", None) is not None:  # labels: no output head is used
            return
        embedding = self._names[layout.tensors_of("embedding.weight")[0]]
        one, other = tensors[head], tensors[embedding]
        same = one.is_readable and one.shape == other.shape
        step = max(_COMPARED_BYTES // max(one.row_bytes, 1), 1)
        for start in range(0, one.shape[0] if same else 0, step):
            stop = min(start + step, one.shape[0])
            same = same and np.array_equal(
                self._files.rows(head, start, stop), self._files.rows(embedding, start, stop)
            )
        if not same:
            raise BadConfiguration(
                f"{self._where}/{CONFIG_KEY}: tie_word_embeddings is true, but {head} is not {embedding}; set "
                f"tie_word_embeddings to false, or delete {head}"
            )

    def _rows(self, name: str, start: int, stop: int) -> np.ndarray:
        adapter = self._adapter
        if adapter is None:
            return self._read_rows(name, start, stop)
        if adapter.needs_whole(name):
            whole = self._read_rows(name, 0, self._files.tensors[self._names[name]].shape[0])
            return adapter.added(name, 0, whole)[start:stop]
        return adapter.added(name, start, self._read_rows(name, start, stop))

    def _read_rows(self, name: str, start: int, stop: int) -> np.ndarray:
        """Rows of a tensor in the files, which are finite numbers."""
        file = self._names[name]
        values = self._files.rows(file, start, stop)
        if not is_finite(values):
            raise BadConfiguration(
                f"{self._where}/{self._files.tensors[file].file}: the tensor {file} has NaN or infinite numbers; copy "
                "the files again, or take another model"
            )
        return values

    def _typed(self, layout: WeightLayout, leaf: LeafShape, dtype: np.dtype | None) -> LeafShape:
        """The leaf in the given type; without one, in the widest type of its tensors."""
        if dtype is None:
            types = {self._files.tensors[self._names[name]].dtype for name in layout.tensors_of(leaf.path)}
            dtype = np.dtype(jnp.float32) if np.dtype("f8") in types else jnp.result_type(*types)
        return dataclasses.replace(leaf, dtype=dtype)


def _names(layout: WeightLayout, tensors: Mapping[str, StoredTensor], where: str) -> dict[str, str]:
    """The names in the files of the tensors of a model, by their names in the layout."""
    found: dict[str, str] = {}
    for name in tensors:
        own = layout.canonical(name, tensors)
        if own is not None and own in found:
            raise BadConfiguration(f"{where}: {found[own]} and {name} are the same tensor of the model; delete one")
        if own is not None:
            found[own] = name
    return found


def folder_place(
    place: str, endpoint: str | None = None, region: str | None = None, *, only: Sequence[str] = FILES
) -> CheckpointSpec:
    """The address of a folder on the command line: a directory, s3://, gs://, or hf://OWNER/NAME of the hub.

    A model of the hub is downloaded into the cache of ``huggingface_hub``, with its token.

    Args:
        place: The address.
        endpoint: Address of an S3-compatible store other than AWS.
        region: Region of an S3 bucket.
        only: Patterns of the files to download from the hub.

    Raises:
        BadConfiguration: It is no address, or there is no such directory or model.
        DataUnreachable: The hub does not answer, or denies access.
    """
    if place.startswith(HUB):
        place = _download(place.removeprefix(HUB), only)
    else:
        _check_folder(place, "a model")
    return address(place, endpoint, region)


def source_name(place: str, store: Store) -> str:
    """How other programs name a folder of `folder_place`: hf://OWNER/NAME, else its whole path or address."""
    return place if place.startswith(HUB) else store.root.removeprefix("file://")


def root_place(place: str, endpoint: str | None = None, region: str | None = None) -> CheckpointSpec:
    """The address of a checkpoint root on the command line: a directory that is there, s3:// or gs://.

    Raises:
        BadConfiguration: It is no address, or there is no such directory.
    """
    _check_folder(place, "a checkpoint root")
    return address(place, endpoint, region)


def _check_folder(place: str, what: str) -> None:
    try:
        path = user_path(place)
        if "://" in place or path.is_dir():
            return
        is_file = path.exists()
    except OSError as error:  # a name that is too long
        raise BadConfiguration(f"there is no folder {place}: {error}; give that of {what}") from None
    if is_file:
        raise BadConfiguration(f"{place} is a file; give the folder of {what}")
    hint = f"; a model of the Hugging Face hub is {HUB}{place}" if _HUB_NAME.fullmatch(place) else ""
    raise BadConfiguration(f"there is no folder {place}; give that of {what}{hint}")


def files_folder(place: str, endpoint: str | None, region: str | None) -> Store | None:
    """The folder of a place ``hf:DIR`` or ``hf://OWNER/NAME``; None: the place is a checkpoint root.

    Arguments and errors: see `folder_place`.
    """
    if not place.startswith(_FILES):
        return None
    folder = place if place.startswith(HUB) else place.removeprefix(_FILES)
    return Store(folder_place(folder, endpoint, region))


def address(place: str, endpoint: str | None = None, region: str | None = None) -> CheckpointSpec:
    """The address of a folder that may not exist yet.

    Raises:
        BadConfiguration: It is no address.
    """
    try:
        return CheckpointSpec(root=root_address(place), endpoint=endpoint, region=region)
    except ValidationError as error:
        message = error.errors()[0]["msg"].removeprefix("Value error, ")
        raise BadConfiguration(f"{place}: {message}") from None


def _download(name: str, only: Sequence[str]) -> str:
    try:
        from huggingface_hub import snapshot_download  # pyright: ignore[reportMissingImports]
    except ImportError:
        raise BadConfiguration(
            f"{HUB}{name} needs the package huggingface_hub: `pip install huggingface_hub`; or give a directory with "
            "the model"
        ) from None
    name, _, revision = name.partition("@")
    try:
        return str(snapshot_download(name, revision=revision or None, allow_patterns=list(only)))
    except Exception as error:  # the package raises many kinds
        why = " ".join(str(error).split())[:200]
        kind = DataUnreachable if is_outage(error) else BadConfiguration
        raise kind(f"{HUB}{name} could not be downloaded ({type(error).__name__}: {why})") from None

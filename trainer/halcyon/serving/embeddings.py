"""``POST /v1/embeddings``: a vector for each text, from the features of the model after its last norm.

The vector of a text has norm 1. It is the mean of the features of all positions, or the features of the last or the
first position. A model that was trained to make vectors gets the tokens that its tokenizer puts around a text, and
another encoder those around a document.

For search among similar texts, the vectors of a model that was trained to write text are usable, but worse than those
of a model that was trained for it.
"""

import base64
import functools
from typing import Any, Literal

import haliax as hax
import jax
import jax.numpy as jnp
import numpy as np

from halcyon.inference.spans import power
from halcyon.models import CausalLM, Inputs
from halcyon.models.axes import BATCH, EMBED, POSITION
from halcyon.models.pooling import Pooling, pooled
from halcyon.parallel.device_mesh import context_of, mesh_of
from halcyon.serving.errors import check_model, invalid
from halcyon.serving.limits import Limits
from halcyon.serving.preparing import several, token_ids
from halcyon.serving.requests import StrictPart
from halcyon.serving.served import Served
from halcyon.tokenizer import Tokenizer, around
from halcyon_api.base import AtLeastOne

_SHORTEST = 32


class EmbeddingRequest(StrictPart):
    """The body of ``POST /v1/embeddings``."""

    model: str | None = None
    input: str | list[str] | list[int] | list[list[int]]
    encoding_format: Literal["float", "base64"] | None = None
    dimensions: AtLeastOne | None = None
    user: str | None = None


class Embedder:
    """Makes the vectors. Only the engine's thread may call `vector`.

    Args:
        pooling: The features that are taken.
        length: Most tokens of a text.
        compute: Type of activations and matrix products.
    """

    def __init__(self, pooling: Pooling, length: int, compute: Any = "float32") -> None:
        self._pooling, self._length, self._compute = pooling, length, jnp.dtype(compute).name

    def warm_up(self, served: Served) -> None:
        """Compile every program: one for each power of two of tokens."""
        length = 1
        while length < self._length:
            length = min(self._length, 2 * length)
            if length >= min(_SHORTEST, self._length):
                self.vector(served, np.zeros(length, np.int32))

    def texts(self, request: EmbeddingRequest, served: Served, limits: Limits) -> list[np.ndarray]:
        """The tokens of each text: int32 [tokens].

        Raises:
            ApiError: The request is not valid.
        """
        check_model(request.model, served.name)
        if request.dimensions not in (None, served.model.embed.size):
            raise invalid(
                f"the vectors of this model have {served.model.embed.size} numbers; leave it out", "dimensions"
            )
        inputs = several(request.input)
        most = min(limits.choices, limits.requests)
        if not 1 <= len(inputs) <= most:
            raise invalid(f"it has {len(inputs)} texts; give 1 to {most}", "input")
        return [self._ids(text, served.tokenizer, served.model) for text in inputs]

    def _ids(self, given: str | list[int], tokenizer: Tokenizer, model: CausalLM) -> np.ndarray:
        try:
            ids = token_ids(given, tokenizer, "input")
        except UnicodeError:
            raise invalid(
                "the text has a part of a character (a lone surrogate), which has no tokens", "input"
            ) from None
        if isinstance(given, str) and (model.bidirectional or model.pooling is not None):
            after = around(tokenizer)[1] if model.pooling is None else np.array(tokenizer.suffix, np.int32)
            ids = np.concatenate((ids, after))
        if len(ids) > self._length:
            raise invalid(
                f"a text has {len(ids)} tokens, and at most {self._length} are possible; shorten it",
                "input",
                "context_length_exceeded",
            )
        return ids

    def vector(self, served: Served, ids: np.ndarray) -> np.ndarray:
        """The vector of a text: float32 [embed], of norm 1."""
        size = min(power(len(ids), _SHORTEST), max(self._length, len(ids)))
        with context_of(mesh_of(served.model)):
            tokens = np.pad(ids, (0, size - len(ids)))
            vector = _pooled(served.model, tokens, np.int32(len(ids)), pooling=self._pooling, dtype=self._compute)
        return np.asarray(vector)


@functools.partial(jax.jit, static_argnames=("pooling", "dtype"))
def _pooled(model: Any, tokens: jax.Array, count: jax.Array, *, pooling: Pooling, dtype: str) -> jax.Array:
    inside = (jnp.arange(len(tokens)) < count)[None]
    names = BATCH, POSITION
    segments = hax.named(inside.astype(jnp.int32), names) if model.bidirectional else None
    outputs = model.states(Inputs(hax.named(tokens[None], names), segments=segments), compute_dtype=jnp.dtype(dtype))
    features = outputs.features.rename({model.embed.name: EMBED})
    vector = pooled(features, inside[:, None], pooling).array[0, 0]
    return vector / jnp.maximum(jnp.linalg.norm(vector), 1e-30)


def document_of(request: EmbeddingRequest, served: Served, vectors: list[np.ndarray], tokens: int) -> dict[str, Any]:
    """The answer, in OpenAI's form.

    Args:
        request: The request.
        served: The model.
        vectors: The vector of each text.
        tokens: Tokens of all texts.
    """

    def shown(vector: np.ndarray) -> Any:
        if request.encoding_format == "base64":
            return base64.b64encode(vector.astype("<f4").tobytes()).decode()
        return vector.tolist()

    return {
        "object": "list",
        "data": [
            {"object": "embedding", "index": index, "embedding": shown(vector)} for index, vector in enumerate(vectors)
        ],
        "model": served.name,
        "usage": {"prompt_tokens": tokens, "total_tokens": tokens},
    }

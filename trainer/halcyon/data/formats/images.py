"""Images in conversations.

A part of a message of type ``image`` or ``image_url`` names an image; one that names none has the next of the row's
field ``images`` or ``image``. The template prints a token for each, in whose place the text gets the tokens of the
image, as the processor of the model in transformers writes them.

A document is two numbers, its images and the tokens of its text; then these tokens; then the pixels of its images, two
in a number of 16 bits (`halcyon.data.layout.beside` reads it).
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from halcyon.data.formats.conversation import IMAGES, image_places
from halcyon.data.formats.document import TokenizedDocument
from halcyon.data.formats.template import Rendered
from halcyon.data.forms.form import BadConversation
from halcyon.data.image import MOST_BYTES, inline, pixels
from halcyon.data.named_files import BadFile, content, shown
from halcyon.data.sources import Access
from halcyon.host.errors import BadConfiguration
from halcyon.tokenizer import Tokenizer
from halcyon.tokenizer.rendered import RenderedText
from halcyon_api.spec.model_shape import ImageShape


class ImageReader:
    """Reads the images of conversations.

    Args:
        sight: The images that the model sees.
        tokenizer: The tokenizer, for the tokens of images.
        where: The field of the document; error messages begin with it.
        access: How files that rows name are read. None: only images in the conversations themselves are.

    Raises:
        BadConfiguration: The tokenizer has no tokens of images, or others than the model.
    """

    def __init__(self, sight: ImageShape, tokenizer: Tokenizer, where: str, access: Access | None) -> None:
        self._sight, self._access = sight, access
        known = tokenizer.special_tokens
        before, after = sight.before.strip(), sight.after.strip()
        self._names = [name for name in (before, *[sight.token] * sight.tokens, after) if name]
        for name in {sight.printed, *self._names}:
            if name not in known or (name == sight.token and known[name] != sight.image_token_index):
                raise BadConfiguration(
                    f"{where}: the tokenizer has no special token {name} with the id that the model knows; take the "
                    "tokenizer of the model, or correct spec.model.vision.imageTokenIndex"
                )
        self._text = f"{sight.before}{sight.token * sight.tokens}{sight.after}"

    def taken(
        self, messages: Sequence[Mapping[str, Any]], fields: Mapping[str, Any], file: str
    ) -> tuple[list[dict[str, Any]], list[np.ndarray]]:
        """The messages with parts that only say that an image is there, and the pixels of the images.

        Args:
            messages: The messages of a row.
            fields: All fields of the row.
            file: The row's file.

        Raises:
            BadConversation: An image cannot be read, or there are too many.
        """
        named = fields.get("images", fields.get("image"))
        others = iter(named if isinstance(named, list) else [] if named is None else [named])
        places, most = list(image_places(messages)), self._sight.images
        if len(places) > most:
            raise BadConversation(
                f"has {len(places)} images, more than {most}", "leave the row out, or raise spec.model.vision.images"
            )
        found: list[np.ndarray] = []

        def part_of(part: Any, place: int) -> Any:
            if not isinstance(part, Mapping) or part.get("type") not in IMAGES:
                return part
            values = (part.get(name) for name in ("image", "image_url", "url", "path", "bytes"))
            value: Any = next((value for value in values if value is not None), None)
            value = next(others, None) if value is None else value
            value = value["url"] if isinstance(value, Mapping) and "url" in value else value
            try:
                data = content(inline(value), file, self._access, MOST_BYTES)
                found.append(pixels(data, self._sight.image_size, cubic=self._sight.cubic))
            except BadFile as bad:
                name = "" if isinstance(value, str) and value.startswith("data:") else shown(value)
                raise BadConversation(f"has an image{name} at place {place} that {bad}", bad.fix) from None
            return {"type": "image"}

        def of(message: Mapping[str, Any], place: int) -> dict[str, Any]:
            parts: Any = message.get("content")
            return {**message, "content": [part_of(part, place) for part in parts]} if place in places else {**message}

        return [of(message, place) for place, message in enumerate(messages)], found

    def with_tokens(self, rendered: Rendered, images: int) -> Rendered:
        """A rendered conversation with the tokens of its images.

        Raises:
            BadConversation: The template does not print one token for each.
        """
        text, spells, printed = rendered.text.text, rendered.text.spells, self._sight.printed
        begins = [start for start, end in rendered.text.special if text[start:end] == printed]
        if len(begins) != images:
            raise BadConversation(
                f"has {images} images, and the template prints {len(begins)} times {printed}",
                "give the template of the model",
            )
        more = len(self._text) - len(printed)

        def moved(place: int) -> int:
            return place + more * sum(begin < place for begin in begins)

        special: list[tuple[int, int]] = []
        for start, end in rendered.text.special:
            first = moved(start)
            if start not in begins:
                special.append((first, moved(end)))
                continue
            first += self._text.index(self._names[0])
            for name in self._names:
                special.append((first, first + len(name)))
                first += len(name)
        parts = [
            text[start:end]
            for start, end in zip([0, *(at + len(printed) for at in begins)], [*begins, None], strict=True)
        ]
        counted = [(moved(start), moved(end)) for start, end in rendered.counted]
        return Rendered(RenderedText(self._text.join(parts), special, spells), counted)


def document_with(document: TokenizedDocument, images: Sequence[np.ndarray]) -> TokenizedDocument:
    """A document of a text with its images."""
    seen = np.concatenate([image.reshape(-1) for image in images] or [np.empty(0, np.uint8)]).view("<u2")
    tokens = np.concatenate([[len(images), len(document.tokens)], document.tokens, seen]).astype(np.int32)
    weights = document.weights
    if weights is not None:
        weights = np.pad(weights, (2, len(seen)))
    return document._replace(tokens=tokens, weights=weights)

"""Prompts of conversations: the messages so far, and the beginning of the assistant's turn."""

import datetime as dt
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Self

import numpy as np

from halcyon.data.formats.conversation import image_places, refuse_videos
from halcyon.data.formats.images import ImageReader
from halcyon.data.formats.template import ChatTemplate, DoesNotFit, prompt_tokens
from halcyon.data.forms.form import BadConversation
from halcyon.host.errors import BadConfiguration
from halcyon.tokenizer import Tokenizer
from halcyon.tokenizer.special import CHAT_MARKS
from halcyon_api.spec.model_shape import ImageShape


class ChatPrompts:
    """Makes prompts with a chat template.

    Args:
        tokenizer: The model's tokenizer.
        template: Jinja template of the model. None: Halcyon's own.
        now: The time that the template prints.
        sight: See `CausalLM.sight`.

    Raises:
        BadConfiguration: The template is not valid, or the tokenizer lacks special tokens of Halcyon's own.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        template: str | None,
        now: Callable[[], dt.datetime] = dt.datetime.now,
        sight: ImageShape | None = None,
    ) -> None:
        self._tokenizer, self.template, self._sight = tokenizer, template, sight
        self._template = ChatTemplate(template, tokenizer, "the chat template", now)
        turn = self._template.turn_end()
        self.ends = tuple(dict.fromkeys((*tokenizer.ends, *(() if turn is None else (turn.id,)))))
        """Tokens that end the assistant's turn: that of a document first."""

    @classmethod
    def of(
        cls,
        tokenizer: Tokenizer,
        template: str | None,
        now: Callable[[], dt.datetime] = dt.datetime.now,
        sight: ImageShape | None = None,
    ) -> Self | None:
        """The prompts of a template, or of Halcyon's own if the tokenizer has its marks; else None."""
        if template is None and any(mark not in tokenizer.special_tokens for mark in CHAT_MARKS):
            return None
        return cls(tokenizer, template, now, sight)

    @property
    def takes_tools(self) -> bool:
        """Whether the template shows the tools of a conversation to the model."""
        return self._template.uses("tools")

    def seen(
        self,
        messages: Sequence[dict[str, Any]],
        tools: Sequence[dict[str, Any]] | None = None,
        *,
        begun: str = "",
        variables: Mapping[str, Any] | None = None,
    ) -> tuple[np.ndarray, np.ndarray | None]:
        """The tokens of a conversation, up to the assistant's next words: int32 [tokens]; and the pixels of its images,
        as `Sequence.images` has them.

        Args:
            messages: Objects with ``role`` and ``content``.
            tools: The tools that the model may call, as the template takes them. None: no tools.
            begun: The first words of the assistant, which are given. Special tokens that they spell are tokens.
            variables: Further variables of the template, such as ``enable_thinking``.

        Raises:
            BadConfiguration: The template does not take the messages, or prints nothing; the model sees no images, or
                one cannot be read.
        """
        reader, images = None, list[np.ndarray]()
        if (place := next(image_places(messages), None)) is not None:
            if self._sight is None:
                raise BadConfiguration(f"message {place} has an image, and the model sees none; give its text alone")
            reader = ImageReader(self._sight, self._tokenizer, "the conversation", None)
        try:
            refuse_videos(messages)
            if reader is not None:
                messages, images = reader.taken(messages, {}, "")
            rendered = self._template.render(messages, tools, to_generate=True, variables=variables)
            rendered = self._template.continued(rendered, begun)
            if reader is not None:
                rendered = reader.with_tokens(rendered, len(images))
        except DoesNotFit as error:
            raise BadConfiguration(f"the chat template does not take these messages: {error.reason}") from None
        except BadConversation as bad:
            raise BadConfiguration(f"the conversation {bad}; {bad.fix}") from None
        tokens = prompt_tokens(rendered, self._tokenizer)
        if not len(tokens):
            raise BadConfiguration(
                "the chat template prints nothing for these messages, and a model needs a token to begin with"
            )
        return tokens, np.stack(images) if images else None

"""The benchmark of speech: sounds, and the words that a model hears wrong.

The word error rate is the least number of words that must be replaced, left out or added, divided by the number of
words that are said, over all sounds together. Case, punctuation and spaces do not count.
"""

import functools
from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby
from typing import Any

from jax.typing import DTypeLike

from halcyon.evals.example import Answer, Sound
from halcyon.evals.rows import Row
from halcyon.host.errors import BadConfiguration
from halcyon.inference.speech import Transcriber, written_texts
from halcyon.models import CausalLM
from halcyon.tokenizer import Tokenizer
from halcyon_api.package import missing


def sounds(rows: Iterable[Row]) -> Iterator[Sound]:
    """The examples of a file: ``audio``, a path below its folder or bytes; ``text``, what is said; and ``language`` as
    in ``en``, if the model is told. A sound is decoded when the model hears it.
    """
    for row in rows:
        text, language = row.text("text"), str(row.values.get("language") or "")
        if not _counts(text, text)[1]:
            row.bad("the field text has no word")
        yield Sound(row.place, row.named_file("audio", row.get("audio")), text, language or None)


def heard_answers(
    model: CausalLM, tokenizer: Tokenizer, examples: Sequence[Sound], *, compute_dtype: DTypeLike
) -> Iterator[Answer]:
    """What a model hears in some sounds.

    Raises:
        BadConfiguration: The model hears no sounds, a sound cannot be read, or the tokenizer lacks a language.
    """
    for language, some in groupby(examples, lambda example: example.language):
        of_language = list(some)
        sounds = ((f"{example.name}: the sound", example.content) for example in of_language)
        texts = written_texts(Transcriber.of(model, tokenizer, compute_dtype), sounds, language)
        for example, (text, _) in zip(of_language, texts, strict=True):
            errors, words = _counts(example.text, text)
            facts = {"text": text, "said": example.text, "errors": errors, "words": words}
            yield Answer(example.name, None, facts, errors=errors, words=words)


@functools.cache
def _words() -> Any:
    try:
        import jiwer
    except ImportError:
        raise BadConfiguration(f"word errors need a counter: {missing('jiwer')}") from None
    plain = jiwer.ToLowerCase(), jiwer.RemovePunctuation(), jiwer.RemoveWhiteSpace(replace_by_space=True)
    words = jiwer.RemoveMultipleSpaces(), jiwer.Strip(), jiwer.ReduceToListOfListOfWords()
    both = jiwer.Compose([*plain, *words])
    return functools.partial(jiwer.process_words, reference_transform=both, hypothesis_transform=both)


def _counts(said: str, heard: str) -> tuple[int, int]:
    """Errors, and the words that are said."""
    found = _words()(said, heard)
    return found.substitutions + found.deletions + found.insertions, len(found.references[0])

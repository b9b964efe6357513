"""A model of Halcyon for ``lm-eval``, the evaluation harness of EleutherAI, which has hundreds of tasks.

The package is not a dependency: `lm_eval_model` imports it when it is called. `Requests` has the three kinds of
requests, many at once, and needs only this project. Prompts are plain text. The token that begins a document stands
before them where the harness has it.
"""

import importlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from halcyon.evals.generation import Answers, Prompts
from halcyon.evals.runner import Settings
from halcyon.host.errors import BadConfiguration
from halcyon.inference import Sampling
from halcyon.inference.generating import engine_for
from halcyon.inference.likelihood import Likelihoods, Span
from halcyon.models import CausalLM
from halcyon.tokenizer import Tokenizer, check_rows, first_id

MAX_GEN_TOKS = 256
"""Most tokens of an answer if the task gives no number, as in the harness; half of the model's positions if these are
fewer.
"""
_KNOWN = ("do_sample", "max_gen_toks", "min_p", "repetition_penalty", "temperature", "top_k", "top_p", "until")


class Requests:
    """The requests of the harness.

    Args:
        model: The model.
        tokenizer: Its tokenizer.
        settings: The settings; how answers are chosen is up to the task.
        add_bos_token: Whether the token that begins a document stands before every text, as the harness's argument of
            this name; a tokenizer without such a token puts none. None: as the tokenizer's files have it, which is the
            default of the harness.
    """

    def __init__(
        self, model: CausalLM, tokenizer: Tokenizer, settings: Settings | None = None, add_bos_token: bool | None = None
    ) -> None:
        self._model, self._tokenizer, self._settings = model, tokenizer, settings or Settings()
        check_rows(tokenizer.vocab_size, model.token_count)
        begin = () if tokenizer.bos_id is None else (tokenizer.bos_id,)
        self._before = tokenizer.prefix if add_bos_token is None else begin if add_bos_token else ()
        self._prompts = Prompts(tokenizer, None)
        self._likelihoods = Likelihoods(
            model, compute_dtype=self._settings.compute_dtype, batch_tokens=self._settings.batch_tokens
        )

    def loglikelihood(self, pairs: Sequence[tuple[str, str]]) -> list[tuple[float, bool]]:
        """Of each pair of context and continuation: the log-likelihood of the continuation in nats, and whether it is
        the greedy one.
        """
        spans: list[Span] = []
        for context, continuation in pairs:
            kept = context.rstrip()  # spaces at the end belong to the next token
            before = self._ids(kept)
            whole = self._ids(f"{context}{continuation}") if kept else self._with_beginning(f"{context}{continuation}")
            spans.append(
                Span(whole, max(1, min(len(before), len(whole) - 1)), f"the continuation {continuation[:40]!r}")
            )
        return [(score.log_prob, score.is_greedy) for score in self._likelihoods.scores(spans)]

    def loglikelihood_rolling(self, texts: Sequence[str]) -> list[float]:
        """The log-likelihood of each text, in nats.

        A longer text than the model's positions is cut; each token is predicted once.
        """
        parts = [windows(self._with_beginning(text), self._model.max_position.size) for text in texts]
        scores = iter(self._likelihoods.scores([span for spans in parts for span in spans]))
        return [sum((next(scores).log_prob for _ in spans), 0.0) for spans in parts]

    def generate_until(self, pairs: Sequence[tuple[str, Mapping[str, Any]]]) -> list[str]:
        """The text after each context, with the settings of the task beside it.

        Raises:
            BadConfiguration: A task has a setting that is not known here, or its answers leave no room for a prompt.
        """
        if not pairs:
            return []
        positions = self._model.max_position.size
        usual = {"max_gen_toks": min(MAX_GEN_TOKS, positions // 2)}
        settings = [sampling_of({**usual, **given}, seed) for seed, (_, given) in enumerate(pairs)]
        most, slots = max(sampling.max_tokens for sampling in settings), self._settings.slots
        if most >= positions:
            raise BadConfiguration(
                f"the task has answers of {most} tokens, which leave no room for a question in the {positions} of the "
                f"model; set gen_kwargs='max_gen_toks={positions // 2}'"
            )
        prompts = [
            # The beginning of a context that is too long is left out, as the harness does.
            self._ids(context)[sampling.max_tokens - positions :]
            for (context, _), sampling in zip(pairs, settings, strict=True)
        ]
        dtype = self._settings.compute_dtype
        engine = engine_for(self._model, self._tokenizer, prompts, most, slots=slots, compute_dtype=dtype)
        return [
            text.text for text in Answers(engine, self._prompts).answers([(ids, None) for ids in prompts], settings)
        ]

    def _ids(self, text: str) -> np.ndarray:
        """The tokens of a text: int32 [tokens], at least one, because a model needs a token to begin with."""
        if not text:
            return self._with_beginning(text)
        return np.concatenate((self._before, self._tokenizer.encode(text))).astype(np.int32)

    def _with_beginning(self, text: str) -> np.ndarray:
        return np.concatenate(([first_id(self._tokenizer)], self._tokenizer.encode(text))).astype(np.int32)


def windows(tokens: np.ndarray, positions: int) -> list[Span]:
    """The parts of a long text: each token but the first is scored once, after as many tokens as the model can read.
    Pure.

    Args:
        tokens: The text with the token that begins a document: int32 [tokens].
        positions: Most tokens that the model reads.
    """
    spans: list[Span] = []
    for begin in range(1, len(tokens), positions):
        end = min(begin + positions, len(tokens))
        first = max(0, end - 1 - positions)
        spans.append(Span(tokens[first:end], begin - first))
    return spans


def sampling_of(given: Mapping[str, Any], seed: int) -> Sampling:
    """The settings of a request from those of a task.

    Raises:
        BadConfiguration: A setting is not known here, or out of its range.
    """
    unknown = [name for name in given if name not in _KNOWN]
    if unknown:
        raise BadConfiguration(f"the task sets {unknown[0]} for its answers; known are {', '.join(_KNOWN)}")
    until = given.get("until") or ()
    temperature = float(given.get("temperature") or 0.0) if given.get("do_sample", True) else 0.0
    try:
        return Sampling(
            max_tokens=int(given.get("max_gen_toks", MAX_GEN_TOKS)),
            temperature=temperature,
            top_k=int(given.get("top_k") or 0),
            top_p=float(given.get("top_p") or 1.0),
            min_p=float(given.get("min_p") or 0.0),
            repetition_penalty=float(given.get("repetition_penalty") or 1.0),
            seed=seed,
            stop=(until,) if isinstance(until, str) else tuple(stop for stop in until if stop),
        )
    except ValueError as error:
        raise BadConfiguration(f"the settings of the task: {error}") from None


def lm_eval_model(
    model: CausalLM, tokenizer: Tokenizer, settings: Settings | None = None, *, add_bos_token: bool | None = None
) -> Any:
    """A model for `lm_eval.simple_evaluate`: an instance of its class ``LM``.

    Args:
        model: The model.
        tokenizer: Its tokenizer.
        settings: See `Requests`.
        add_bos_token: See `Requests`.

    Raises:
        BadConfiguration: The package is not installed.
    """
    try:
        base: Any = importlib.import_module("lm_eval.api.model").LM
    except ImportError:
        raise BadConfiguration("the package lm-eval is not installed; install it with `pip install lm-eval`") from None
    answering = Requests(model, tokenizer, settings, add_bos_token)

    class HalcyonModel(base):
        """Answers the requests of the harness."""

        @property
        def tokenizer_name(self) -> str:
            """Names the tokenizer in the caches of the harness."""
            return tokenizer.fingerprint

        def loglikelihood(self, requests: list[Any], disable_tqdm: bool = False) -> list[tuple[float, bool]]:
            """See `Requests.loglikelihood`."""
            return self._kept("loglikelihood", requests, answering.loglikelihood)

        def loglikelihood_rolling(self, requests: list[Any], disable_tqdm: bool = False) -> list[float]:
            """See `Requests.loglikelihood_rolling`."""
            texts = [request.args[0] for request in requests]
            return self._kept("loglikelihood_rolling", requests, lambda _: answering.loglikelihood_rolling(texts))

        def generate_until(self, requests: list[Any], disable_tqdm: bool = False) -> list[str]:
            """See `Requests.generate_until`."""
            return self._kept("generate_until", requests, answering.generate_until)

        def _kept(self, kind: str, requests: list[Any], answer: Callable[[list[Any]], list[Any]]) -> list[Any]:
            """The answers, which the cache of the harness gets too."""
            answers = answer([request.args for request in requests])
            for request, kept in zip(requests, answers, strict=True):
                self.cache_hook.add_partial(kind, request.args, kept)
            return answers

    return HalcyonModel()

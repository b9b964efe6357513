"""Requests that are computed together get the texts that they get alone."""

from __future__ import annotations

import itertools
from typing import Any

import jax
import numpy as np
import pytest

from halcyon.host.errors import BadConfiguration
from halcyon.inference import Engine, Sampling, Token
from halcyon.inference.programs import PromptLogs
from halcyon.inference.sequence import Sequence
from halcyon.models import CausalLM
from halcyon_api.spec.families.section import ModelSection
from tests.trainer.models.cases import FAMILIES, LLAMA, TIED_LLAMA, VOCAB, logits, make, named

_LENGTH = 64
_NOISE = np.random.default_rng(4)
_REQUESTS = [
    (_NOISE.integers(0, VOCAB.size, length), settings)
    for length, settings in (
        (3, Sampling(6, temperature=0.0)),
        (18, Sampling(9, seed=5)),
        (1, Sampling(12, temperature=0.7, top_k=5, seed=6)),
        (30, Sampling(20, top_p=0.8, min_p=0.02, seed=7)),
        (7, Sampling(5, temperature=0.0, repetition_penalty=1.5, frequency_penalty=0.7)),
        (2, Sampling(8, temperature=2.0, seed=5)),
    )
]


def _finished(engine: Engine, numbers: list[int]) -> dict[int, list[Token]]:
    found: dict[int, list[Token]] = {number: [] for number in numbers}
    for _ in range(1000):
        if not engine.unfinished:
            return found
        for one in engine.step():
            found[one.sequence].append(one)
    raise AssertionError("the engine does not end")


def _tokens(engine: Engine, *requests: tuple[Any, Sampling]) -> list[list[int]]:
    numbers = [engine.submit(prompt, settings) for prompt, settings in requests]
    found = _finished(engine, numbers)
    assert all(found[number][-1].finish == "length" for number in numbers)
    return [[one.id for one in found[number]] for number in numbers]


def _engine(model: CausalLM, **changed: Any) -> Engine:
    return Engine(model, **{"slots": 3, "pages": 7, **changed})


def _model(spec: ModelSection) -> CausalLM:
    return make.__wrapped__(spec, length=_LENGTH)  # not every section can be a key of its cache


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=() if name == "mistral" else pytest.mark.variant)
        for name in ("mistral", "llama", "gemma2", "qwen3-next")
    ],
)
def test_a_text_does_not_depend_on_the_requests_beside_it(name: str) -> None:
    """Six requests share three slots, and pages for fewer requests than that."""
    model = _model(FAMILIES[name])
    engine = _engine(model)
    together = _tokens(engine, *_REQUESTS)
    assert engine.free_pages == engine.pages
    assert [len(text) for text in together] == [settings.max_tokens for _, settings in _REQUESTS]
    alone = [_tokens(engine, request)[0] for request in reversed(_REQUESTS)][::-1]
    assert together == alone
    prompt, settings = _REQUESTS[0]
    text = list(prompt)
    for _ in range(settings.max_tokens):  # the most likely token of the model without a cache
        text.append(
            int(
                np.argmax(
                    logits(model, named(np.pad(text, (0, 16 - len(text)))[None].astype(np.int32)))[0, len(text) - 1]
                )
            )
        )
    assert together[0] == text[len(prompt) :]


@pytest.mark.slow
def test_shared_beginnings_do_not_change_a_bit() -> None:
    """Prompts share chunks of different lengths, while their pages are short; also with a penalty for tokens of the
    shared part.
    """
    model = make.__wrapped__(TIED_LLAMA, length=512)
    beginning = _NOISE.integers(0, VOCAB.size, 330)
    prompts = [
        np.concatenate((beginning[:at], _NOISE.integers(0, VOCAB.size, 5)))
        for at in (40, 64, 70, 130, 200, 260, 330, 330)
    ]
    requests = [
        (prompt, Sampling(6, seed=seed, repetition_penalty=1.3)) for seed, prompt in enumerate([*prompts, prompts[3]])
    ]

    def computed(share: bool) -> tuple[list[list[tuple[int, float]]], int]:
        engine = Engine(model, slots=3, pages=40, share=share)
        numbers = [engine.submit(*request) for request in requests]
        found = _finished(engine, numbers)
        assert engine.free_pages == engine.pages
        return [[(one.id, one.log_prob) for one in found[number]] for number in numbers], sum(
            found[number][0].reused for number in numbers
        )

    alone, none = computed(share=False)
    together, reused = computed(share=True)
    assert together == alone
    assert (none, reused > 500) == (0, True)


@pytest.mark.slow
def test_requests_share_only_with_those_of_their_salt() -> None:
    """Neither earlier requests nor those that wait at the same time."""
    model = make.__wrapped__(TIED_LLAMA, length=512)
    prompt = _NOISE.integers(0, VOCAB.size, 70)
    for share in (True, False):
        engine = Engine(model, slots=3, share=share)
        both = [engine.submit(prompt, Sampling(2), salt=salt) for salt in (b"a", b"b", b"a")]
        found = _finished(engine, both)
        assert [found[number][0].reused for number in both] == [0, 0, 70]
        later = [engine.submit(prompt, Sampling(2), salt=salt) for salt in (b"c", b"b")]
        found = _finished(engine, later)
        assert [found[number][0].reused for number in later] == [0, 64 if share else 0]


@pytest.mark.slow
@pytest.mark.variant
@pytest.mark.parametrize("name", ["mistral", "qwen3-next", "nanochat"])
def test_requests_with_one_prompt_compute_it_once(name: str) -> None:
    """Each text is that of its own request alone, bit for bit; another prompt between them is computed by itself."""
    model, other = _model(FAMILIES[name]), _NOISE.integers(0, VOCAB.size, 18)
    prompt, _ = _REQUESTS[1]
    requests = [
        (prompt, Sampling(6, seed=1, repetition_penalty=1.3)),
        (other, Sampling(6, seed=2)),
        (prompt, Sampling(9, 0.0)),
        (prompt, Sampling(6, seed=3)),
    ]

    def computed(*given: Any) -> list[list[tuple[int, float, int]]]:
        engine = _engine(model, slots=4, pages=16)
        numbers = [engine.submit(*request) for request in given]
        found = _finished(engine, numbers)
        assert engine.free_pages == engine.pages
        return [[(one.id, one.log_prob, one.reused) for one in found[number]] for number in numbers]

    together, alone = computed(*requests), [computed(request)[0] for request in requests]
    assert [text[0][2] for text in together] == [0, 0, len(prompt), len(prompt)]
    assert [[one[:2] for one in text] for text in together] == [[one[:2] for one in text] for text in alone]


@pytest.mark.slow
def test_logs_of_a_prompt_are_those_of_the_model() -> None:
    """Of chunks, beside a sequence that has computed the same beginning, and of two sequences with one prompt."""
    model = make.__wrapped__(TIED_LLAMA, length=512)
    engine = Engine(model, slots=3, alternatives=3)
    prompt = _NOISE.integers(0, VOCAB.size, 330).astype(np.int32)
    _finished(engine, [engine.submit(prompt, Sampling(2))])
    both = [Sequence(prompt, Sampling(2, alternatives=2), logs_prompt=True) for _ in range(2)]
    _finished(engine, [engine.add(one) for one in both])
    expected = jax.nn.log_softmax(logits(model, named(prompt[None]))[0], -1)
    for one in both:
        logs = PromptLogs(*(np.concatenate(parts) for parts in zip(*one.prompt_logs, strict=True)))
        np.testing.assert_allclose(logs.log_probs, expected[np.arange(329), prompt[1:]], atol=2e-5)
        np.testing.assert_allclose(logs.top_log_probs, jax.lax.top_k(expected[:-1], 2)[0], atol=2e-5)
        assert logs.top_tokens.shape == (329, 2)
    assert engine.free_pages == engine.pages


@pytest.mark.slow
def test_a_penalty_counts_each_time_that_a_token_was_written() -> None:
    """The first tokens are those without a penalty; with a large one, no token comes twice."""
    engine, prompt = _engine(_model(LLAMA)), _REQUESTS[1][0]
    plain, unlike = _tokens(engine, (prompt, Sampling(16, 0.0)), (prompt, Sampling(16, 0.0, frequency_penalty=1000.0)))
    assert unlike[0] == plain[0]
    assert len(set(unlike)) == 16


@pytest.mark.slow
def test_a_grammar_decides_which_tokens_follow() -> None:
    class Even:
        """Only tokens with an even number; the last one ends the text."""

        def __init__(self) -> None:
            self.seen: list[int] = []

        def allow(self, words: np.ndarray) -> None:
            words[:] = 0x55555555

        def accept(self, token: int) -> None:
            self.seen.append(token)

    engine = _engine(_model(LLAMA))
    prompt, settings = _REQUESTS[1]
    grammar = Even()
    free, bound = engine.submit(prompt, settings), engine.submit(prompt, settings, grammar=grammar)
    found = _finished(engine, [free, bound])
    assert all(one.id % 2 == 0 for one in found[bound])
    assert any(one.id % 2 for one in found[free])
    assert grammar.seen == [one.id for one in found[bound]][:-1]
    (alone,) = _tokens(engine, (prompt, settings))
    assert alone == [one.id for one in found[free]]


@pytest.mark.slow
def test_ends_alternatives_and_cancellations() -> None:
    model = _model(LLAMA)
    engine = _engine(model, alternatives=2, tokens=20)
    prompt, settings = _REQUESTS[0]
    number = engine.submit(prompt, settings)
    sampled = _finished(engine, [number])[number]
    for one in sampled:
        assert one.id < 20
        assert one.alternatives[0] == (one.id, pytest.approx(one.log_prob))
        assert one.alternatives[0][1] >= one.alternatives[1][1]
    end = sampled[2].id
    first = next(at for at, one in enumerate(sampled) if one.id == end)
    number = engine.submit(prompt, settings, ends=[end])
    ended = _finished(engine, [number])[number]
    assert [one.id for one in ended] == [one.id for one in sampled[: first + 1]]
    assert ended[-1].finish == "stop"
    numbers = [engine.submit(*request) for request in _REQUESTS]
    engine.step()
    for number in numbers:
        engine.cancel(number)
    assert (engine.unfinished, engine.free_pages) == (0, engine.pages)
    assert engine.step() == []


@pytest.mark.slow
@pytest.mark.parametrize("with_apart", [False, pytest.param(True, marks=pytest.mark.variant)])
def test_a_text_does_not_depend_on_the_calls_that_compute_it(with_apart: bool) -> None:
    """Calls of one step and of up to sixteen, and also with blocks apart; some texts end by a token, one is
    cancelled.
    """
    model = _model(LLAMA)

    def texts(seconds: float, **changed: Any) -> tuple[list[list[tuple[int, float]]], int]:
        times = itertools.count(0.0, seconds)
        engine = _engine(model, clock=lambda: next(times), **changed)
        numbers = [
            engine.submit(prompt, settings, ends=range(number, 24, 7))
            for number, (prompt, settings) in enumerate(_REQUESTS)
        ]
        calls, decode = 0, engine._programs.decode

        def counted(*arguments: Any) -> Any:
            nonlocal calls
            calls += 1
            return decode(*arguments)

        engine._programs = engine._programs._replace(decode=counted)
        left: dict[int, list[Token]] = {number: [] for number in numbers}
        while engine.unfinished:
            for one in engine.step():
                left[one.sequence].append(one)
            if len(left[numbers[3]]) == 2:  # while later tokens of it may be ready
                engine.cancel(numbers[3])
        assert engine.free_pages == engine.pages
        assert all(left[number][-1].finish is not None for number in numbers if number != numbers[3])
        assert len(left[numbers[3]]) == 2
        return [[(one.id, one.log_prob) for one in left[number]] for number in numbers], calls

    one, many_calls = texts(1.0)
    several, few_calls = texts(0.0)
    assert several == one
    assert few_calls < many_calls

    apart, _ = texts(0.0, apart=True) if with_apart else (one, 0)
    for text, expected in zip(apart, one, strict=True):
        assert [token for token, _ in text] == [token for token, _ in expected]
        np.testing.assert_allclose(
            [log_prob for _, log_prob in text], [log_prob for _, log_prob in expected], rtol=1e-5
        )


def test_a_request_that_does_not_fit_is_refused() -> None:
    engine = _engine(_model(LLAMA))
    with pytest.raises(
        ValueError, match="a prompt of 60 tokens and a text of 9 are longer than 64 tokens; shorten the prompt, or set"
    ):
        engine.submit([1] * 60, Sampling(9))
    with pytest.raises(ValueError, match="longer than 16 tokens"):
        _engine(_model(LLAMA), pages=1).submit([1] * 10, Sampling(9))
    with pytest.raises(ValueError, match="the prompt has no token"):
        engine.submit([])
    with pytest.raises(ValueError, match="the prompt has the token 24; the model has 0 to 23"):
        engine.submit([1, 24])
    with pytest.raises(ValueError, match="0 slots"):
        _engine(_model(LLAMA), slots=0)


def test_a_model_without_a_cache_is_refused() -> None:
    class Plain:
        def require_decoder(self) -> None: ...

    with pytest.raises(BadConfiguration, match="Plain keeps no cache, so it cannot generate text"):
        Engine(Plain())  # pyright: ignore[reportArgumentType]

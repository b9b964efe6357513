"""The requests of ``lm-eval``, and the real package where it is installed."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import halcyon
from halcyon.evals.lm_eval_model import Requests, lm_eval_model, sampling_of, windows
from halcyon.evals.runner import Runner
from halcyon.host.errors import BadConfiguration
from halcyon.inference.likelihood import Likelihoods, Score, Span
from halcyon.tokenizer.byte import ByteTokenizer
from halcyon.tokenizer.definition import TokenizerDefinition
from halcyon.tokenizer.tokenizer_json import JsonTokenizer
from tests.trainer.weights.folders import GOLDENS

PLACE = f"hf:{GOLDENS / 'qwen3'}"


def decoder(tokens: int) -> Any:
    """What is read of a model with rows for this many tokens."""
    return SimpleNamespace(max_position=SimpleNamespace(size=8), token_count=tokens, require_decoder=lambda: None)


def test_each_token_of_a_long_text_is_scored_once_after_the_most_context() -> None:
    tokens = np.arange(11, dtype=np.int32)  # the first begins the document
    found = [(span.tokens[:-1].tolist(), span.tokens[span.start :].tolist()) for span in windows(tokens, 4)]
    assert found == [([0, 1, 2, 3], [1, 2, 3, 4]), ([4, 5, 6, 7], [5, 6, 7, 8]), ([6, 7, 8, 9], [9, 10])]
    assert windows(tokens[:1], 4) == []


def test_settings_of_a_task_become_those_of_a_request() -> None:
    given = sampling_of({"until": ["\n\n", ""], "max_gen_toks": 7, "do_sample": False, "temperature": 0.8}, 3)
    assert (given.stop, given.max_tokens, given.temperature, given.seed) == (("\n\n",), 7, 0.0, 3)
    assert sampling_of({"until": "end", "do_sample": True, "temperature": 0.8, "top_p": 0.9}, 0).temperature == 0.8
    assert sampling_of({}, 0).max_tokens == 256
    with pytest.raises(BadConfiguration, match="the task sets num_beams for its answers"):
        sampling_of({"num_beams": 4}, 0)
    with pytest.raises(BadConfiguration, match="the settings of the task: top_p is 2"):
        sampling_of({"top_p": 2}, 0)


def test_without_the_package_one_sentence_names_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "lm_eval.api.model", None)
    with pytest.raises(BadConfiguration, match="the package lm-eval is not installed"):
        lm_eval_model(SimpleNamespace(max_position=SimpleNamespace(size=1)), SimpleNamespace())  # type: ignore[arg-type]


@pytest.mark.parametrize("adds", [False, True])
@pytest.mark.parametrize("add_bos_token", [None, False, True])
def test_the_beginning_token_is_where_the_harness_has_it(
    adds: bool, add_bos_token: bool | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before a context by the switch, else as the tokenizer does; always where there is no context."""
    spans: list[Span] = []

    def scores(asked: list[Span]) -> list[Score]:
        spans.extend(asked)
        return [Score(0.0, 1, False) for _ in asked]

    monkeypatch.setattr("halcyon.evals.lm_eval_model.Likelihoods", lambda *_, **__: SimpleNamespace(scores=scores))
    monkeypatch.setattr(ByteTokenizer, "prefix", (256,) if adds else ())
    model: Any = decoder(259)
    requests = Requests(model, ByteTokenizer("f"), add_bos_token=add_bos_token)
    requests.loglikelihood([("ab ", "c"), ("", "ab"), (" ", "a")])
    begins = [256] if (adds if add_bos_token is None else add_bos_token) else []
    assert [(span.tokens.tolist(), span.start) for span in spans] == [
        ([*begins, *b"ab c"], len(begins) + 2),
        ([256, *b"ab"], 1),
        ([256, *b" a"], 1),
    ]
    spans.clear()
    requests.loglikelihood_rolling(["ab"])
    assert [span.tokens.tolist() for span in spans] == [[256, *b"ab"]]


def test_answers_that_leave_no_room_for_the_question_are_refused() -> None:
    """A task with answers of 32,768 tokens would ask a small model nothing."""
    model: Any = decoder(259)
    said = "the task has answers of 8 tokens, which leave no room .* in the 8 of the model; set .*max_gen_toks=4"
    with pytest.raises(BadConfiguration, match=said):
        Requests(model, ByteTokenizer("f")).generate_until([("What?", {"max_gen_toks": 8})])


def test_ids_without_a_row_of_the_model_are_refused() -> None:
    model: Any = decoder(258)
    tokenizer = ByteTokenizer("f")
    said = (
        "the tokenizer has 259 ids, and the model has rows for 258; take the tokenizer of this model, or train the new "
        "tokens with spec.from.growVocabulary"
    )
    uses: list[Callable[[], object]] = [
        lambda: Requests(model, tokenizer),
        lambda: Runner(model, tokenizer),
        lambda: halcyon.generate(model, tokenizer, "a"),
    ]
    for use in uses:
        with pytest.raises(BadConfiguration, match=f"^{said}$"):
            use()
    likelihoods = Likelihoods(model, batch_tokens=8)
    for ids in ([1, 258], [-1, 2]):
        with pytest.raises(ValueError, match="a text has a token that is not one of 0 to 257, which the model has"):
            likelihoods.scores([Span(np.array(ids, np.int32), 1)])


@pytest.mark.parametrize(("processor", "prefix"), [(None, ()), ("<|endoftext|>", (2,)), ("a", (0,))])
def test_a_file_says_what_stands_before_a_text(processor: str | None, prefix: tuple[int, ...]) -> None:
    """The post-processor of a tokenizer.json decides."""
    vocabulary = {"a": 0, "b": 1, "<|endoftext|>": 2}
    token = None if processor is None else {"id": processor, "ids": [vocabulary[processor]], "tokens": [processor]}
    single = [{"SpecialToken": {"id": processor, "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}]
    document = {
        "version": "1.0",
        "added_tokens": [
            {
                "id": 2,
                "content": "<|endoftext|>",
                "single_word": False,
                "lstrip": False,
                "rstrip": False,
                "normalized": False,
                "special": True,
            }
        ],
        "post_processor": token
        and {"type": "TemplateProcessing", "single": single, "pair": single, "special_tokens": {processor: token}},
        "model": {"type": "BPE", "vocab": vocabulary, "merges": []},
    }
    tokenizer = JsonTokenizer(TokenizerDefinition("tokenizerJson", json.dumps(document).encode()))
    assert tokenizer.prefix == prefix
    assert tokenizer.encode("ab").tolist() == [0, 1]


@pytest.mark.slow
@pytest.mark.variant
def test_requests_have_the_numbers_of_the_model() -> None:
    model, tokenizer = halcyon.load(PLACE)
    assert tokenizer is not None
    requests = Requests(model, tokenizer, add_bos_token=True)
    pairs = [("a b", " c"), ("a b ", "c"), ("", "a b c"), ("Café au", " lait and more")]
    found = requests.loglikelihood(pairs)
    assert found[0] == found[1]  # the space belongs to the continuation
    (rolling,) = requests.loglikelihood_rolling(["a b c"])
    assert rolling == pytest.approx(found[2][0], rel=1e-6)
    texts = requests.generate_until([("a b", {"max_gen_toks": 4}), ("a b", {"max_gen_toks": 4, "until": ["zzz"]})])
    assert tokenizer.bos_id is None, "so nothing stands before the text, and never the token that ends one"
    prompt = tokenizer.encode("a b").tolist()
    assert texts[0] == texts[1] == halcyon.generate(model, tokenizer, [prompt], max_tokens=4, temperature=0.0)[0].text


@pytest.mark.slow
@pytest.mark.variant
def test_the_real_harness_evaluates_a_model() -> None:
    pytest.importorskip("lm_eval", reason="lm-eval is not a dependency")
    import lm_eval
    from lm_eval.api.instance import Instance

    model, tokenizer = halcyon.load(PLACE)
    assert tokenizer is not None
    wrapped = lm_eval_model(model, tokenizer)
    assert isinstance(wrapped, lm_eval.api.model.LM)

    def asked(kind: Any, *arguments: Any) -> Any:
        return Instance(request_type=kind, doc={}, arguments=arguments, idx=0)

    ((log_prob, is_greedy),) = wrapped.loglikelihood([asked("loglikelihood", "a b", " c")])
    assert log_prob < 0
    assert is_greedy in (False, True)
    assert wrapped.loglikelihood_rolling([asked("loglikelihood_rolling", "a b c")])[0] < 0
    (text,) = wrapped.generate_until([asked("generate_until", "a b", {"until": ["\n"], "max_gen_toks": 3})])
    assert isinstance(text, str)

"""Objectives that do not fit the rest of the document are rejected with one sentence."""

from __future__ import annotations

import re
from typing import Any

import pytest

from halcyon_api.base import InvalidRun
from halcyon_api.training_run import TrainingRunSpec
from halcyon_api.validation import find_problems
from tests.api.documents import minimal_spec

TEXT, CHAT, PAIRS = {"text": {}}, {"chat": {}}, {"preference": {}}
BASE = {"huggingFace": {"path": "/base"}}
DPO: dict[str, Any] = {"preference": {"dpo": {}}}
SIMPO: dict[str, Any] = {"preference": {"simpo": {}}}
FINETUNE: dict[str, Any] = {"finetune": {}}
PROMPTS = {"prompt": {}}
LLAMA = {"family": "llama", "numHiddenLayers": 2, "hiddenSize": 64, "numAttentionHeads": 4}
TEACHER: dict[str, Any] = {"teacher": {"path": "/teacher", "model": LLAMA}}


def policy(**fields: Any) -> dict[str, Any]:
    """The objective of a policy; the document's batches have 8 rows of 32 tokens."""
    return {"policy": {"reward": "gsm8k", "groupSize": 4, "maxTokens": 16, **fields}}


def spec_of(
    objective: dict[str, Any], form: dict[str, Any], *, layout: dict[str, Any] | None = None, **changes: Any
) -> TrainingRunSpec:
    source = {"name": "talk", "jsonl": {"paths": ["/data/talk.jsonl"]}, "format": form} | (
        {"layout": layout} if layout else {}
    )
    return minimal_spec(spec__objective=objective, spec__data__sources=[source], **changes)


def sentences(*arguments: Any, **changes: Any) -> list[str]:
    return [str(problem) for problem in find_problems(spec_of(*arguments, **changes))]


@pytest.mark.parametrize(
    ("objective", "form", "changes"),
    [
        (FINETUNE, CHAT, {}),
        ({"finetune": {"weighting": "conversation"}}, {"prebuilt": {"weightsField": "weights"}}, {}),
        (SIMPO, PAIRS, {}),
        (DPO, PAIRS, {"spec__from": BASE}),
        (DPO, PAIRS, {"spec__from": {"run": "base", "root": "file:///base", "weightsOnly": True}}),
        (DPO, PAIRS, {"spec__from": BASE, "spec__adapter": {"lora": {"dropout": 0.1}}}),
        (DPO, PAIRS, {"spec__task": "evaluate", "spec__from": {"run": "base", "root": "file:///base"}}),
        (DPO, TEXT, {"spec__task": "data"}),
        (policy(), PROMPTS, {}),
        (policy(beta=0.1), PROMPTS, {"spec__from": BASE}),
        (policy() | TEACHER, PROMPTS, {}),
        (FINETUNE | TEACHER, CHAT, {"spec__from": BASE, "spec__adapter": {"lora": {}}}),
        ({"nextToken": {}} | TEACHER, TEXT, {}),
        (policy(groupSize=2), PROMPTS, {"spec__trainer__batchSchedule": [{"fromStep": 5, "batchSize": 16}]}),
        (policy(), PROMPTS, {"spec__task": "data"}),
    ],
)
def test_objectives_with_their_sources_are_valid(
    objective: dict[str, Any], form: dict[str, Any], changes: dict[str, Any]
) -> None:
    assert not sentences(objective, form, **changes)


@pytest.mark.parametrize(
    ("objective", "form", "changes", "sentence"),
    [
        (
            FINETUNE,
            TEXT,
            {},
            "spec.data.sources[talk].format: objective.finetune needs conversations, and text has none",
        ),
        (FINETUNE, {"prebuilt": {}}, {}, "and prebuilt has none; set format chat (or prebuilt with weightsField)"),
        (
            FINETUNE,
            {"chat": {"lossOn": "all"}},
            {},
            "format.chat.lossOn: objective.finetune trains on the assistant's tokens alone",
        ),
        (FINETUNE, PAIRS, {}, "format.preference: pairs of conversations need an objective that compares them"),
        (
            FINETUNE,
            CHAT,
            {"layout": {"pack": {}}},
            "layout: objective.finetune packs whole conversations by itself; leave layout out",
        ),
        (
            FINETUNE,
            CHAT,
            {"spec__trainer__batchSchedule": [{"fromStep": 5, "sequenceLength": 16}]},
            "batchSchedule[0].sequenceLength: objective.finetune has rows of one length",
        ),
        (SIMPO, CHAT, {}, "format: objective.preference needs pairs, and chat has none; set format preference"),
        (
            SIMPO,
            PAIRS,
            {"spec__data__attendAcrossDocuments": True},
            "a text must not see the other one; leave it out",
        ),
        (
            DPO,
            PAIRS,
            {},
            "spec.from: objective.preference.dpo compares with the weights that the run begins with; name them",
        ),
        (
            {"preference": {"ipo": {}}},
            PAIRS,
            {"spec__from": {"run": "base", "root": "file:///base"}},
            "spec.from: objective.preference.ipo compares with the weights",
        ),
        (
            {"finetune": {"weighting": "conversation"}},
            CHAT,
            {"spec__trainer__evaluation": {"everySteps": 5, "best": {"metric": "bitsPerByte"}}},
            "spec.trainer.evaluation.best.metric: an evaluation with this objective.finetune has no bits per byte",
        ),
        (
            FINETUNE,
            CHAT,
            {"spec__trainer__evaluation": {"everySteps": 5, "best": {"metric": "accuracy"}}},
            "spec.trainer.evaluation.best.metric: only an evaluation with objective.classify or contrastive has it; take loss",
        ),
        (
            DPO,
            PAIRS,
            {"spec__from": BASE, "spec__adapter": {"lora": {"trainAlso": ["embedding.*"]}}},
            "spec.adapter.lora.trainAlso: objective.preference.dpo compares with the weights beside the adapter",
        ),
        (policy(), CHAT, {}, "format: objective.policy needs prompts, and chat has none; set format prompt"),
        (FINETUNE, PROMPTS, {}, "format.prompt: prompts need an objective that answers them; set objective.policy"),
        (
            policy(groupSize=3),
            PROMPTS,
            {},
            "groupSize: 3 must divide every batch size, and 8 is no multiple of it; the next one is 9",
        ),
        (
            policy(maxTokens=32),
            PROMPTS,
            {},
            "maxTokens: an answer of 32 tokens leaves no position for a prompt in a sequence of 32",
        ),
        (
            policy(beta=0.1),
            PROMPTS,
            {},
            "spec.from: objective.policy.beta compares with the weights that the run begins with",
        ),
        (SIMPO | TEACHER, PAIRS, {}, "spec.objective.teacher: objective.preference has no distribution of each token"),
        (policy(beta=0.1) | TEACHER, PROMPTS, {"spec__from": BASE}, "policy.beta compares with another model already"),
        (
            {"nextToken": {}, "teacher": {"path": "/t", "model": {"family": "whisper"}}},
            TEXT,
            {},
            "spec.objective.teacher.model: it must hear and see what the trained model does",
        ),
        (
            FINETUNE | TEACHER,
            CHAT,
            {"spec__from": {"run": "base", "root": "file:///base"}},
            "spec.from: the run that this one goes on from has no teacher; begin with weights alone",
        ),
        (
            policy(),
            PROMPTS,
            {"spec__task": "evaluate", "spec__from": {"run": "base", "root": "file:///base"}},
            "spec.task: with objective.policy only a run that trains",
        ),
        (
            policy(updatesPerRollout=2),
            PROMPTS,
            {"spec__from": {"run": "base", "root": "file:///base"}},
            "updatesPerRollout: the run that this one goes on from has no weights that sample; begin with weights "
            "alone",
        ),
        (
            policy(delaySteps=1, updatesPerRollout=2),
            PROMPTS,
            {},
            "delaySteps: the answers of the next steps are sampled already, so updatesPerRollout has no effect on them",
        ),
        (
            policy(delaySteps=1),
            PROMPTS,
            {"spec__recovery": {"divergence": {"nonFinite": "rollback"}}},
            "so recovery.divergence with rollback has no effect on them; leave one out",
        ),
        *(
            (
                policy(**given),
                PROMPTS,
                changes,
                "sampledBy: samplers sample the answers of later steps, so a run with a pool, and task: sample, need",
            )
            for given, changes in (
                ({"sampledBy": "samplers"}, {}),
                ({"delaySteps": 1}, {"spec__task": "sample"}),
            )
        ),
        *(
            (
                policy(environment={}, **given),
                PROMPTS,
                {},
                "environment: its words are kept with answers that are sampled ahead, so it needs delaySteps of at",
            )
            for given in ({"delaySteps": 1}, {"reward": "package.module:talk"})
        ),
        (
            policy(reward="judge"),
            PROMPTS,
            {},
            "reward: judge asks another model; give environment.arguments with its url, or another reward",
        ),
        (
            policy(truncation=3),
            PROMPTS,
            {},
            "truncation: only a correction by token or sequence truncates; set it, or leave this out",
        ),
        (
            policy(),
            PROMPTS,
            {"spec__trainer__evaluation": {"everySteps": 5, "best": {"metric": "bitsPerByte"}}},
            "an evaluation with this objective.policy has no bits per byte",
        ),
    ],
)
def test_what_does_not_fit_is_one_sentence(
    objective: dict[str, Any], form: dict[str, Any], changes: dict[str, Any], sentence: str
) -> None:
    (found,) = sentences(objective, form, **changes)
    assert sentence in found


@pytest.mark.parametrize(
    ("objective", "sentence"),
    [
        ({}, "exactly one of nextToken, maskedToken, classify, contrastive, finetune, preference, policy"),
        (
            {"finetune": {}, "nextToken": {}},
            "exactly one of nextToken, maskedToken, classify, contrastive, finetune, preference, policy",
        ),
        ({"preference": {}}, "exactly one of dpo, ipo, simpo, orpo"),
        ({"preference": {"dpo": {}, "ipo": {}}}, "exactly one of dpo, ipo, simpo, orpo"),
        ({"preference": {"dpo": {"labelSmoothing": 0.5}}}, "less than or equal to 0.49"),
        ({"preference": {"dpo": {"beta": 0.0}}}, "greater than 0"),
        ({"preference": {"simpo": {"dropout": 0.1}}}, "spec.objective.preference.simpo.dropout: unknown field"),
        ({"finetune": {"weighting": "row"}}, "'token' or 'conversation'"),
        (FINETUNE | {"teacher": {"path": "/t"}}, "spec.objective.teacher.model: required, and not there; add it"),
        (
            FINETUNE | {"teacher": {"path": "/t", "model": {"family": "llama", "hiddenSise": 8}}},
            "spec.objective.teacher.model.hiddenSise: unknown field; did you mean hiddenSize?",
        ),
        (
            FINETUNE | {"teacher": {"path": "/t", "model": {"family": "huggingFace", "configFile": "/t"}}},
            "the family huggingFace names a file, which only a command reads",
        ),
        ({"policy": {}}, "spec.objective.policy.reward: required, and not there; add it"),
        (policy(groupSize=1), "spec.objective.policy.groupSize: must be greater than or equal to 2"),
        (
            policy(reward="mine"),
            "'mine' must be gsm8k, spellingBee, or the import path of a function, such as package.module:function",
        ),
    ],
)
def test_the_schema_of_objectives(objective: dict[str, Any], sentence: str) -> None:
    with pytest.raises(InvalidRun, match=re.escape(sentence)):
        spec_of(objective, PAIRS)

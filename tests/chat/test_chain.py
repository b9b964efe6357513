"""The order of the stages, the documents on this machine, and which stages are done."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import typer

from halcyon_api.reading import parse_run
from halcyon_api.validation import find_problems
from halcyon_chat.chain import Broken, Stage, in_order, left, model_of, stages
from halcyon_chat.local import local_form
from halcyon_chat.records import read_chain
from halcyon_cli.main import app
from tests.examples.documents import REPOSITORY

FOLDER = Path("/var/chain")
CHAIN = read_chain(REPOSITORY / "examples" / "chat")


def edited(name: str, **spec: Any) -> list[dict[str, Any]]:
    """The chain with other members of a run's spec; None removes one."""
    chain = copy.deepcopy(CHAIN)
    for document in chain:
        if document["metadata"]["name"] == name:
            document["spec"] = {key: value for key, value in {**document["spec"], **spec}.items() if value is not None}
    return chain


def names(chain: list[dict[str, Any]]) -> list[str]:
    return [document["metadata"]["name"] for document in chain]


def test_runs_come_in_the_order_of_after() -> None:
    chain = in_order(reversed(CHAIN))
    assert names(chain)[:3] == ["chat-data", "chat-pretrain", "chat-finetune"]
    assert [one["spec"].get("after", {}).get("run") for one in chain] == [None, *names(chain)[:-1]]
    assert names(chain)[-1] == "chat-evaluate"


@pytest.mark.parametrize(
    ("chain", "sentence"),
    [
        (
            edited("chat-finetune", after={"run": "chat-data"}),
            "chat-finetune and chat-pretrain come both after chat-data; give each run",
        ),
        (
            edited("chat-finetune", after={"run": "other"}),
            "run chat-finetune comes after other, which is not in the chain",
        ),
        (
            edited("chat-pretrain", after={"run": "chat-evaluate"}),
            "chat-evaluate and chat-finetune and .*chat-pretrain wait for each other",
        ),
        (edited("chat-pretrain", after=None), "chat-data and chat-pretrain come both after no run"),
        (
            [one for one in CHAIN if one["spec"].get("task")][:1],
            "no run of the chain trains; give at least one document",
        ),
    ],
)
def test_runs_that_are_no_chain_are_rejected(chain: list[dict[str, Any]], sentence: str) -> None:
    with pytest.raises(Broken, match=sentence):
        in_order(chain)


@pytest.mark.parametrize("document", CHAIN, ids=names(CHAIN))
def test_the_local_form_is_the_same_run_on_this_machine(document: dict[str, Any]) -> None:
    before = copy.deepcopy(document)
    local = local_form(document, FOLDER)
    assert document == before, "the document itself must not change"
    assert not find_problems(parse_run(local).spec)
    for place in ("accelerator", "checkpoint", "data", "from"):
        local["spec"].pop(place, None)
        before["spec"].pop(place, None)
    assert local == before
    assert "s3://" not in str(local_form(document, FOLDER))


def test_addresses_are_below_the_folder() -> None:
    finetune = next(one for one in CHAIN if one["metadata"]["name"] == "chat-finetune")
    spec = local_form(finetune, FOLDER)["spec"]
    assert spec["checkpoint"]["root"] == "file:///var/chain/chat-finetune"
    assert spec["from"]["root"] == "file:///var/chain/chat-pretrain"
    assert {source["jsonl"]["paths"][0] for source in spec["data"]["sources"]} >= {
        "file:///var/chain/chat-files/library.jsonl"
    }


@pytest.mark.parametrize("stage", stages(CHAIN, FOLDER, ["1"]), ids=lambda stage: stage.name)
def test_each_command_exists_with_its_options(stage: Stage) -> None:
    command: Any = typer.main.get_command(app)
    arguments = list(stage.command)
    while hasattr(command, "commands"):
        command = command.commands[arguments.pop(0)]
    assert command.make_context(stage.name, arguments).params


def test_a_stage_is_run_again_with_all_behind_it() -> None:
    found = stages(CHAIN, FOLDER, ["1"])
    done = {stage.name: stage.key for stage in found}
    assert left(found, done) == ()
    assert left(found, {}) == found
    del done["chat-finetune"]
    assert [stage.name for stage in left(found, done)][:1] == ["chat-finetune"]
    assert len(left(found, done)) == len(found) - 3


def test_the_page_talks_with_the_last_trained_model() -> None:
    trained = [one for one in in_order(CHAIN) if one["spec"].get("task", "train") == "train"]
    assert model_of(stages(CHAIN, FOLDER, ["1"])).name == trained[-1]["metadata"]["name"]


def test_a_changed_document_does_not_go_on_in_an_old_root() -> None:
    done = {stage.name: stage.key for stage in stages(CHAIN, FOLDER, ["1"])}
    changed = stages(edited("chat-finetune", objective={"finetune": {"weighting": "conversation"}}), FOLDER, ["1"])
    with pytest.raises(Broken, match=r"chat-finetune was done with another document, .*--fresh"):
        left(changed, done)
    with pytest.raises(Broken, match="chat-data was done"):
        left(stages(CHAIN, FOLDER, ["2"]), done)
    never_done = {name: key for name, key in done.items() if name in ("conversations", "chat-data", "chat-pretrain")}
    assert left(changed, never_done)[0].name == "chat-finetune"


def test_a_root_for_two_runs_is_rejected() -> None:
    with pytest.raises(Broken, match=r"the same spec\.checkpoint\.root"):
        stages(edited("chat-finetune", checkpoint={"root": "s3://checkpoints/chat-pretrain"}), FOLDER, ["1"])

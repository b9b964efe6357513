"""The data that `halcyon data` shows of a run is the data that the run trains on."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from typer.testing import CliRunner

from halcyon.commands.data import app
from halcyon.commands.views import sources as overview
from halcyon.commands.views.sources import lengths_of
from halcyon.data.dataset import Dataset
from halcyon.tokenizer import BYTE, load
from halcyon_api.reading import load_run
from tests.families import TINIEST
from tests.trainer.support.datasets import open_dataset

STEPS = 30
BATCH = 8
ORIGIN = re.compile(r" *(\d+)  tokens (\d+) to (\d+) of document (\d+): (\S+), row (\d+) \((\S+) count\)")


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run with two sources and three batch sizes, on two hosts."""
    for name, files in (("poems", 6), ("proofs", 3)):
        (tmp_path / name).mkdir()
        for number in range(files):
            (tmp_path / name / f"{number}.txt").write_text(
                "".join(f"{name} {number}, line {line}.\n" for line in range(20 + 30 * number))
            )
    (tmp_path / "poems" / "5.txt").write_text("\x1b[31mred alert\x07\x9b" * 9)
    document: dict[str, Any] = {
        "apiVersion": "halcyon.dev/v1alpha1",
        "kind": "TrainingRun",
        "metadata": {"name": "looked-at"},
        "spec": {
            "accelerator": {"type": "cpu", "topology": "2x1"},
            "model": TINIEST,
            "data": {
                "sources": [
                    {"name": name, "text": {"paths": [str(tmp_path / name)]}, "weight": weight}
                    for name, weight in (("poems", 3), ("proofs", 1))
                ],
                "cache": {"workers": 1},
            },
            "trainer": {
                "steps": STEPS,
                "batchSize": BATCH,
                "sequenceLength": 32,
                "batchSchedule": [{"fromStep": 10, "batchSize": 16}, {"fromStep": 20, "sequenceLength": 64}],
            },
            "checkpoint": {"root": f"file://{tmp_path}/root"},
        },
    }
    path = tmp_path / "run.yaml"
    path.write_text(yaml.safe_dump(document))
    return path


def look(*arguments: str | Path) -> str:
    found = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert found.exit_code == 0, found.output
    return found.output


def refused(*arguments: str | Path) -> str:
    found = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert found.exit_code not in (0, 1), found.output
    return " ".join(re.sub("[│╭╮╰╯─]", " ", found.output).split())


def dataset_of(run: Path) -> Dataset:
    return open_dataset(load_run(run).spec)


@pytest.mark.parametrize("step", [1, 10, 11, 20, 21, 30])
def test_a_step_of_the_log_is_traced_to_its_documents_in_one_command(run: Path, step: int) -> None:
    """Before, at and after a change of sizes, the files' own bytes are the tokens of the batch that the loop numbers
    ``step - 1``.
    """
    shown = look("show", run, "--step", step, "--no-text")
    dataset, tokenizer = dataset_of(run), load(BYTE)
    rows = dataset.train_rows(step - 1)
    examples = dataset.examples(rows)
    head, *parts = re.split(r"(?m)^row (?=\d+: )", shown)
    assert f"Step {step} of {STEPS}: {len(rows)} sequences of {rows.length} tokens" in head
    for index, name in enumerate(("poems", "proofs")):
        assert re.search(rf"{name} +{(rows.source == index).sum()} ", head)
    assert len(parts) == len(rows)
    for row, part in enumerate(parts):
        heading, *origins = part.strip().splitlines()
        source = dataset.sources[int(rows.source[row])].name
        assert heading.startswith(f"{row}: source {source}, sequence {int(rows.sequence[row])}")
        assert f"{examples.weights[row].sum():g} of {rows.length} targets count" in heading
        found: list[int] = []
        for line in origins:
            match = ORIGIN.fullmatch(line)
            assert match is not None, line
            offset, first, last, _, file, number, counted = match.groups()
            content = Path(file).read_bytes()
            tokens = [tokenizer.bos_id, *content, tokenizer.eos_id]
            assert (Path(file).parent.name, number, int(offset)) == (source, "0", len(found))
            weights = examples.weights[row][max(0, len(found) - 1) :][: int(last) - int(first) + (1 if found else 0)]
            assert float(counted) == weights.sum()
            found += tokens[int(first) : int(last) + 1]
        counts = examples.weights[row] > 0
        assert np.array_equal(
            np.array(found[:-1])[: counts.sum()], examples.tokens[row][: min(len(found) - 1, counts.sum())]
        )
        assert np.array_equal(np.array(found[1:]), examples.targets[row][: len(found) - 1])


def test_a_build_reports_its_result_and_finds_it_the_next_time(run: Path) -> None:
    first, second = look("build", run), look("build", run)
    for name, source in dataset_of(run).description["sources"].items():
        assert re.search(rf"{name} +{source['tokens']:,} tokens, 1 shard  [\d,]+ docs/s", first)
        for shown in (first, second):
            assert re.search(
                rf"{name} +\d+ +0 +{source['documents']:,} +{source['tokens']:,} +{source['sizeBytes']:,} ", shown
            )
    assert "docs/s" not in second


def test_parts_of_a_long_sequence_are_shown_as_parts(run: Path) -> None:
    assert ", part 1 of 2, " in look("show", run, "--no-text")
    assert ", part " not in look("show", run, "--step", STEPS, "--no-text")


def test_the_text_is_shown_and_cannot_steer_the_terminal(run: Path) -> None:
    dataset = dataset_of(run)
    shown = "".join(look("show", run, "--step", step, "--rows", ":") for step in range(1, 31, 4))
    assert re.search(r"poems \d, line \d+\.", shown)
    assert "proofs" in shown
    assert "␛[31mred alert␇" in shown
    assert not set(shown) & {"\x1b", "\x07", "\x9b"}
    assert "<|bos|>" in shown or all(name not in shown for name in dataset.tokenizer.special_tokens)


@pytest.mark.parametrize(
    ("rows", "expected"),
    [("3", [3]), ("0:2", [0, 1]), ("6:", [6, 7]), (":2", [0, 1]), (":", list(range(BATCH))), ("6:99", [6, 7])],
)
def test_rows_may_be_chosen(run: Path, rows: str, expected: list[int]) -> None:
    assert list(map(int, re.findall(r"(?m)^row (\d+): ", look("show", run, "--no-text", "--rows", rows)))) == expected


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("show", "--rows", "some"), "'some' names no rows; give one such as 3, some such as 0:4, or : for all"),
        (("show", "--rows", "8:"), "8: is none of the 8 rows, counted from 0"),
        (("show", "--step", "31"), "the run has 30 steps, not 31"),
        (("show", "--step", "0"), "Input should be greater than or equal to 1"),
    ],
)
def test_an_impossible_request_is_reported(run: Path, arguments: tuple[str, ...], sentence: str) -> None:
    assert sentence in refused(arguments[0], run, *arguments[1:])


def test_the_contents_of_every_source_are_shown_with_its_counts(run: Path) -> None:
    printed = " ".join(look("stats", run).split())
    dataset = dataset_of(run)
    epochs = dataset.mixture.epochs(dataset.schedule.positions_before(STEPS))
    for index, source in enumerate(dataset.sources):
        contents = dataset.description["sources"][source.name]
        assert f" {contents['tokens']:,} " in printed
        assert f" {epochs[index]:.3f} " in printed
        assert f"Tokens of a document, {source.name}: {contents['documents']:,} documents" in printed


def test_programs_get_json_and_fields_may_be_set(run: Path) -> None:
    dataset = dataset_of(run)
    shown = json.loads(look("stats", run, "--json", "--set", "spec.trainer.steps=25"))
    assert (shown["steps"], shown["notes"]) == (25, [])
    end = dataset.schedule.positions_before(25)
    for index, (source, found) in enumerate(zip(dataset.sources, shown["sources"], strict=True)):
        assert (found["name"], found["tokens"]) == (source.name, dataset.description["sources"][source.name]["tokens"])
        assert (found["epochs"], found["layout"]["leftOut"]) == (dataset.mixture.epochs(end)[index], 0)
        for epochs, steps in enumerate(found["epochSteps"], start=1):
            counts = [
                dataset.mixture.ranks(dataset.schedule.positions_before(one))[index] for one in (steps - 1, steps)
            ]
            assert counts[0] < epochs * source.used <= counts[1]
    built = json.loads(look("build", run, "--json"))
    assert [(one["name"], one["finished"]) for one in built["sources"]] == [("poems", True), ("proofs", True)]
    step = json.loads(look("show", run, "--json", "--step", "3", "--rows", "1:3"))
    rows = dataset.train_rows(2)
    assert [(one["row"], one["sequence"]) for one in step["rows"]] == [(n, rows.sequence[n]) for n in (1, 2)]
    assert all(sum(part["tokens"] for part in one["excerpts"]) <= 65 and one["text"] for one in step["rows"])


def test_a_histogram_counts_every_document_once() -> None:
    for lengths in (np.array([0, 1, 1, 2, 5]), np.array([7]), np.random.default_rng(0).integers(1, 10**6, 10_000)):
        found = lengths_of(np.cumsum(lengths))
        assert found.counts.sum() == len(lengths)
        assert (found.low, found.high, found.mean) == (max(1, lengths.min()), max(2, lengths.max()), lengths.mean())
        assert found.quantiles == tuple(np.quantile(lengths, (0.05, 0.5, 0.95)))


def test_a_histogram_of_a_large_source_is_made_in_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    lengths = np.random.default_rng(0).lognormal(6, 1, 100_000).astype(np.int64) + 1
    whole = lengths_of(np.cumsum(lengths))
    monkeypatch.setattr(overview, "_CHUNK", 9_999)
    chunked = lengths_of(np.cumsum(lengths))
    assert np.array_equal(chunked.counts, whole.counts)
    assert (chunked.low, chunked.high, chunked.mean) == (whole.low, whole.high, whole.mean)
    assert chunked.quantiles == pytest.approx(whole.quantiles, rel=0.05)


def test_a_run_that_takes_its_root_from_defaults_is_inspected_with_them(run: Path, tmp_path: Path) -> None:
    document = yaml.safe_load(run.read_text())
    del document["spec"]["checkpoint"]
    run.write_text(yaml.safe_dump(document))
    assert "checkpoint.root" in refused("build", run)
    defaults = tmp_path / "defaults.yaml"
    spec = {"checkpoint": {"rootPrefix": f"file://{tmp_path}/team"}}
    head = {"apiVersion": "halcyon.dev/v1alpha1", "kind": "TrainingRunDefaults", "metadata": {"name": "default"}}
    defaults.write_text(yaml.safe_dump(head | {"spec": spec}))
    look("build", run, "--defaults", defaults)
    assert {path.name for path in (tmp_path / "team" / "default" / "looked-at" / "data").iterdir()} >= {
        "poems",
        "proofs",
    }
    for command in ("show", "stats"):
        assert "poems" in look(command, run, "--defaults", defaults)
    assert not (tmp_path / "root").exists()

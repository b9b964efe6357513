"""What the demo shows on the terminal, and how it changes the examples."""

import io
from pathlib import Path

from rich.console import Console
from rich.table import Table

from halcyon_api.reading import parse_run
from halcyon_api.status.run_status import TrainingRunStatus, parse_status
from halcyon_api.validation import find_problems
from halcyon_demo.comparison import compare, losses
from halcyon_demo.documents import example, variant
from halcyon_demo.observations import Observations
from halcyon_demo.on_slurm import on_folder
from halcyon_demo.page import FLIP, Mark, page, picture
from halcyon_demo.records import Fault
from halcyon_demo.recovery import MEANINGS, PARTS, Recovery
from halcyon_demo.story import audited, meanwhile, with_flip
from halcyon_demo.tables import cost, equality_table, in_place_table, recovery_table, summary_table
from halcyon_demo.view import View
from tests.demo.samples import RUN, line, steps


def text_of(table: Table) -> str:
    console = Console(file=io.StringIO(), width=160)
    console.print(table)
    return console.file.getvalue()  # type: ignore[attr-defined]


def status(**fields: object) -> TrainingRunStatus:
    return parse_status(fields)


def test_the_progress_without_the_operator_is_described_correctly() -> None:
    assert meanwhile(200, 207).endswith("meanwhile the run continued, from step 200 to step 207")
    assert meanwhile(200, 200).endswith("the operator is back before the run has done another step; it is at step 200")


def test_the_run_with_a_flipped_bit_is_audited_and_the_other_one_is_the_same_without_it() -> None:
    calm = audited(example("stdlib-llama"))
    assert calm["spec"]["recovery"] == {"audit": {"everySteps": 25}}
    disturbed = with_flip(calm)
    assert disturbed["spec"]["recovery"]["audit"].pop("flipBit") == {"step": 30, "process": 1}
    assert disturbed == calm
    assert find_problems(parse_run(with_flip(calm)).spec) == ()


def test_the_run_on_slurm_is_the_example_with_its_checkpoints_in_a_folder() -> None:
    changed = on_folder(example("stdlib-llama"), Path("/shared"), "calm")
    assert find_problems(parse_run(changed).spec) == ()
    assert changed["spec"]["checkpoint"]["root"] == "file:///shared/calm"
    assert "s3:" not in str(changed)


def test_equality_table_gives_the_verdict() -> None:
    disturbed = losses([*steps(1, 12), *steps(11, 20, (1, 1))], RUN)
    equal = text_of(equality_table(compare(disturbed, losses(steps(1, 20), RUN), 20), 20))
    assert "20 of 20" in equal
    assert equal.count("identical") == 3
    different = text_of(equality_table(compare(disturbed, losses(steps(1, 19), RUN), 20), 20))
    assert "19 of 20" in different
    assert "different" in different


def test_each_fault_in_place_is_beside_the_same_fault_with_new_pods() -> None:
    found = [Recovery(Fault(title, 0), (1, 0, 1), 75, 0, "memory", {"join": 2.5}) for title in ("bit flip", "eviction")]
    others = [Recovery(Fault("eviction", 0), (1, 1, 0), 75, 0, "checkpoint", {"join": 6.25})]
    assert "eviction │      2.5 │               6.2 │" in text_of(in_place_table(found, others))


def test_recovery_table_adds_up() -> None:
    seconds = dict.fromkeys(PARTS, 1.0)
    text = text_of(recovery_table([Recovery(Fault("eviction of slice 1", 0), (1, 1, 0), 75, 12, "memory", seconds)]))
    assert "eviction of slice 1" in text
    assert "7.0" in text
    assert all(part in text and part in MEANINGS for part in PARTS)


def test_summary_table_shows_the_cost_of_the_faults() -> None:
    ended = status(
        restarts={"total": 3, "preempted": 1, "failed": 1},
        goodput={"ratio": 0.8123, "wallSeconds": 160.4, "productiveSeconds": 130.0},
    )
    lines = [*steps(1, 12), *steps(11, 20, (1, 1)), line("evaluation", 99.0, step=20, loss=1.0, bitsPerByte=2.5)]
    disturbed = cost(ended, lines)
    assert (disturbed.repeated, disturbed.loss, disturbed.bits_per_byte) == (2, 0.25, 2.5)
    text = text_of(summary_table(disturbed, cost(status(), steps(1, 20))))
    for expected in ("81.2%", "160", "0.250000000", "2.500000"):
        assert expected in text


def test_the_picture_shows_both_runs_and_where_one_was_hit() -> None:
    disturbed, undisturbed = losses([*steps(1, 12), *steps(11, 20, (1, 1))], RUN), losses(steps(1, 20), RUN)
    marks = [Mark(6, FLIP), Mark(12, "SIGKILL"), Mark(16, "operator deleted")]
    text = picture(disturbed, undisturbed, marks, compare(disturbed, undisturbed, 20))
    for expected in (
        "SIGKILL",
        "operator deleted",
        "difference 0 in 20 steps; 1 restart, 1 flipped bit, 2 repeated steps",
        "nats per token",
    ):
        assert expected in text
    different = losses([*steps(1, 19), line("step", 99.0, step=20, loss=1.0)], RUN)
    assert "difference in 1 place in 20 steps" in picture(
        different, undisturbed, marks, compare(different, undisturbed, 20)
    )


def test_the_page_has_what_was_printed() -> None:
    assert "![Losses of both runs, which lie on each other](demo.svg)" in page("\nfirst\nlast\n", "demo.svg")
    assert "```text\nfirst\nlast\n```" in page("\nfirst\nlast\n", "demo.svg")


def test_plain_view_prints_when_the_phase_changes() -> None:
    console = Console(file=io.StringIO(), width=200)
    observations, now = Observations(), 0.0
    view = View(console, observations, clock=lambda: now)
    observations.saw_run(
        {
            "metadata": {"name": RUN, "uid": "u"},
            "status": {"phase": "Running", "restarts": {"total": 1, "preempted": 1}},
        }
    )
    observations.saw_line(line("step", 1.0, step=7, loss=2.5, tokensPerSecond=1234.5))
    view.draw()
    with view.of(RUN, 20):
        view.draw()
        view.draw()
    text = console.file.getvalue()  # type: ignore[attr-defined]
    assert text == f"  {RUN}  Running  step 7/20  loss 2.5000  tokens/s 1,234  restarts 1\n"


def test_live_view_on_a_terminal() -> None:
    console = Console(file=io.StringIO(), width=200, force_terminal=True)
    observations = Observations()
    view = View(console, observations)
    with view.of(RUN, 20):
        observations.saw_line(line("step", 1.0, step=7, loss=2.5))
        view.draw()
        view.say("something happened")
    text = console.file.getvalue()  # type: ignore[attr-defined]
    assert "step 7/20" in text
    assert "something happened" in text


def test_a_variant_is_the_same_training_elsewhere() -> None:
    document = example("stdlib-llama")
    twin = variant(document, name="stdlib-llama-undisturbed", steps=40)
    assert twin["metadata"]["name"] == "stdlib-llama-undisturbed"
    assert twin["spec"]["checkpoint"]["root"] == "s3://checkpoints/stdlib-llama-undisturbed"
    assert twin["spec"]["trainer"]["steps"] == 40
    assert document == example("stdlib-llama")
    mine, theirs = parse_run(document).spec, parse_run(twin).spec
    for section in ("accelerator", "mesh", "model", "tokenizer", "data", "optimizer"):
        assert getattr(mine, section) == getattr(theirs, section)

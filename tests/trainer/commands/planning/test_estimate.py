"""The numbers of a plan follow from the compiled step, the facts of the hardware and what is assumed."""

from __future__ import annotations

import datetime as dt
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from halcyon.commands.planning.assumptions import Assumptions, meanings, with_values
from halcyon.commands.planning.estimate import Estimate, Run, estimate, goodput
from halcyon.commands.planning.page import duration, plan_page
from halcyon.commands.planning.search import Row, ranked
from halcyon.commands.planning.vocabulary import Vocabulary, vocabulary_of
from halcyon.step.device_use import DeviceBytes, Plan
from halcyon.step.hlo.work import Rates
from halcyon_api.spec.checkpoint import MemorySpec
from halcyon_api.spec.tokenizer import BpeTokenizerSpec, TokenizerJsonSpec, TokenizerSpec
from tests.trainer.step.plans import COMPILED, FLOPS, RATES
from tests.trainer.tokenizer.texts import trained

IDEAL = Assumptions(products=1, kernels=1, memory=1, links=1)
RUN = Run(
    tokens=6400,
    flops=FLOPS,
    vocabulary=Vocabulary(259),
    compiled_for="h100",
    own_kernel=False,
    state_bytes=32 * 10**9,
    devices=8,
    chips=8,
    hosts=2,
    provisioning="spot",
)
NOW = dt.datetime(2026, 11, 27, tzinfo=dt.UTC)


def number(found: Estimate, name: str) -> Any:
    return next(one.value for numbers in found.sections.values() for one in numbers if one.name == name)


def test_products_in_8_bits_with_exact_sums_reach_less_of_their_peak() -> None:
    assumed = Assumptions(narrow=0.6, exact=0.3)
    assert (assumed.shares().narrow, assumed.shares(exact=True).narrow) == (0.6, 0.3)


def test_a_step_that_does_not_fit_says_what_is_missing() -> None:
    memory = DeviceBytes(1, 1, 1, 1, 50, 40)
    found = estimate(replace(COMPILED, memory=memory), RUN, RATES, IDEAL, NOW)
    assert (found.missing_bytes, number(found, "missing")) == (10, 10)
    whole = estimate(COMPILED, RUN, RATES, IDEAL, NOW)
    unknown = estimate(replace(COMPILED, memory=replace(memory, available=None)), RUN, RATES, IDEAL, NOW)
    assert (found.fits, whole.fits, whole.missing_bytes, unknown.fits) == (False, True, 0, None)


def test_money_and_end_follow_from_the_time_of_the_run() -> None:
    found = estimate(COMPILED, RUN, RATES, replace(IDEAL, price=3.0, stops=0.0), NOW)
    assert number(found, "time of the run") == pytest.approx(800, rel=0.01)
    assert number(found, "chip-hours") == pytest.approx(8 * 800 / 3600, rel=0.01)
    assert number(found, "cost") == pytest.approx(3 * 8 * 800 / 3600, rel=0.01)
    assert number(found, "end") == "2026-11-27T00:13+00:00"
    assert number(estimate(COMPILED, RUN, RATES, IDEAL, NOW), "cost") is None


def test_the_cost_is_that_of_the_list_unless_a_price_is_given() -> None:
    listed = replace(RUN, list_price=2.0)
    (cost,) = (one for one in estimate(COMPILED, listed, RATES, IDEAL, NOW).sections["run"] if one.name == "cost")
    (own,) = (
        one
        for one in estimate(COMPILED, listed, RATES, replace(IDEAL, price=3.0), NOW).sections["run"]
        if one.name == "cost"
    )
    assert isinstance(cost.value, float)
    assert own.value == pytest.approx(1.5 * cost.value)
    assert own.note == ""
    assert cost.note.startswith("$2.00 a chip-hour, Google Cloud's list price on demand in us-central1")
    assert ", read 2026-11-29; set spec.accelerator.pricePerChipHour" in cost.note


def test_rows_and_the_first_line_say_what_the_step_was_compiled_for() -> None:
    found = estimate(COMPILED, RUN, RATES, IDEAL, NOW)
    bases = {one.name: one.basis for numbers in found.sections.values() for one in numbers}
    assert (bases["the whole step"], bases["MFU, at most"], bases["left"]) == ("compiled for h100",) * 3
    assert set(bases.values()) == {"compiled for h100", "computed", "assumed"}
    first, second, *_ = plan_page(COMPILED, found, RUN, "A note.", details=False)
    assert str(first).startswith("Compiled for h100: ")
    assert second == "A note."


def test_samplers_must_sample_the_answers_of_a_step_in_its_time() -> None:
    found = estimate(COMPILED, replace(RUN, sampled=6400), RATES, IDEAL, NOW)
    assert number(found, "samplers need, at most") == pytest.approx(6400 / number(found, "time of a step"))
    with pytest.raises(StopIteration):
        number(estimate(COMPILED, RUN, RATES, IDEAL, NOW), "samplers need, at most")


def test_a_run_that_is_too_long_for_a_calendar_has_no_end() -> None:
    found = estimate(COMPILED, RUN, RATES, replace(IDEAL, host_copy=1e-6, store=1e-6), NOW)
    assert number(found, "time of the run") > 1e12
    assert number(found, "end") is None


def test_without_the_speed_of_a_device_a_plan_has_memory_and_checkpoints() -> None:
    plan: Plan = replace(COMPILED, work=(), overlap=None)
    found = estimate(plan, RUN, None, Assumptions(), NOW)
    assert set(found.sections) == {"model", "memory of a device", "checkpoint", "stops"}
    assert number(found, "time to restore") == 16


@given(stops=st.floats(0, 1000), blocked=st.floats(0.001, 60), save=st.floats(0, 600), down=st.floats(0, 3600))
def test_goodput_falls_with_stops_and_with_what_they_cost(
    stops: float, blocked: float, save: float, down: float
) -> None:
    def share(stops: float, down: float) -> float:
        return goodput(stops_per_day=stops, blocked_seconds=blocked, save_seconds=save, down_seconds=down).goodput

    assert 0 <= share(stops, down) <= 1
    assert share(stops + 1, down) <= share(stops, down) + 1e-9
    assert share(stops, down + 60) <= share(stops, down) + 1e-9


@pytest.mark.parametrize(
    ("provisioning", "values", "off", "on"),
    [
        ("onDemand", [], 300, 300 - 264 * 0.0018 / 0.0042),
        ("spot", [], 300, 300 - 264 * 0.018),
        ("spot", ["crashes=1", "restart-in-place=0"], 300, 0),
        ("spot", ["stops=0"], 300, 300),
    ],
)
def test_restarts_in_place_are_shorter_where_the_host_goes_on(
    provisioning: Any, values: list[str], off: float, on: float
) -> None:
    run, assumed = replace(RUN, provisioning=provisioning), with_values(values)
    without, within = (estimate(COMPILED, replace(run, in_place=each), RATES, assumed, NOW) for each in (False, True))
    name, read = "from a stop to the next step", number(without, "time to restore")
    assert (number(without, name) - read, number(within, name) - read) == pytest.approx((off, on))
    assert number(without, "goodput") <= number(within, "goodput")
    notes = [one.note for found in (without, within) for one in found.sections["stops"] if one.name == "goodput"]
    assert [note.partition(" ")[2] for note in notes] == [
        f"with recovery.inPlace: {each}" for each in ("true", "false")
    ]


@pytest.mark.parametrize("every", [None, 6])
def test_snapshots_in_memory_lose_less_work_where_processes_start_in_place(every: int | None) -> None:
    run = replace(RUN, provisioning="spot", hosts=64, devices=512, in_place=True, state_bytes=10**12)
    memory = replace(run, memory=MemorySpec.model_validate({"everySteps": every}))
    without, within, off = (
        estimate(COMPILED, one, RATES, Assumptions(), NOW) for one in (run, memory, replace(memory, in_place=False))
    )
    name = "time between snapshots in memory"
    assert all(found.value("stops", name) is None for found in (without, off))
    if every is not None:
        assert number(within, name) == pytest.approx(every * number(within, "time of a step"))
    copy = run.state_bytes / 64 / 8.8e9 + number(within, "a save blocks the steps for")
    assert number(within, "work that a stop loses") == pytest.approx(number(within, name) / 2 + copy)
    assert number(within, "work that a stop loses") < number(without, "work that a stop loses")
    assert number(within, "from a stop to the next step") < number(without, "from a stop to the next step")
    assert number(within, "goodput") > number(without, "goodput")


def test_each_assumption_has_a_meaning_and_can_be_given() -> None:
    assert all(meanings().values())
    assert with_values(["price=2.5", "host-copy=1e9"]) == replace(Assumptions(), price=2.5, host_copy=1e9)
    assert (Assumptions().stops_of_host("spot"), with_values(["stops=0"]).stops_of_host("spot")) == (0.1, 0)


def test_the_speed_of_a_device_can_be_given() -> None:
    measured = with_values(["device-flops=5e12", "device-memory=1e11"])
    assert measured.rates(RATES) == Rates(flops=5e12, memory=1e11, links=1.0)
    assert (measured.rates(None), Assumptions().rates(RATES)) == (None, RATES)
    network = with_values(["device-network=7"])
    assert network.rates(RATES) == RATES, "there is one island"
    assert network.rates(replace(RATES, network=3.0, island=8)) == replace(RATES, network=7.0, island=8)
    assert replace(measured, device_links=1e9).rates(None) == Rates(5e12, 1e11, 1e9)


def row(name: str, seconds: float, step_bytes: int | None) -> Row:
    memory = {"the whole step": {"value": step_bytes}, "there is": {"value": 100}}
    return Row(
        {"spec.a": name}, {"plan": {"memory of a device": memory, "step": {"time of a step": {"value": seconds}}}}
    )


def test_what_fits_is_ranked_by_its_time_and_before_what_does_not() -> None:
    slow, fast, unknown, large, failed = (
        row("slow", 3, 50),
        row("fast", 2, 90),
        row("unknown", 1, None),
        row("large", 1, 95),
        Row({}, None, "no compiler"),
    )
    assert ranked([failed, large, unknown, slow, fast]) == (fast, slow, unknown, large, failed)
    assert (unknown.fits, unknown.document()["fits"]) == (None, None)


def test_candidates_without_a_price_come_after_those_with_one() -> None:
    def costs(name: str, hours: float, cost: float | None) -> Row:
        found = row(name, 1, 50)
        assert found.plan is not None
        found.plan["plan"]["run"] = {"chip-hours": {"value": hours}, "cost": {"value": cost}}
        return found

    dear, cheap, short, long = (
        costs("dear", 1, 9),
        costs("cheap", 8, 3),
        costs("short", 1, None),
        costs("long", 2, None),
    )
    assert ranked([long, short, dear, cheap], by_money=True) == (cheap, dear, short, long)


def test_times_have_the_unit_that_fits() -> None:
    assert [duration(one) for one in (0.0123, 5, 300, 7200, 864_000)] == [
        "12.3 ms",
        "5 s",
        "5.0 minutes",
        "2.0 hours",
        "10.0 days",
    ]


def test_the_vocabulary_is_that_of_the_file_or_is_said_to_be_assumed(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_bytes(trained().content)
    for path in (tmp_path, f"file://{tmp_path}/tokenizer.json"):
        assert vocabulary_of(TokenizerSpec(tokenizer_json=TokenizerJsonSpec(path=str(path)))) == Vocabulary(512)
    assert vocabulary_of(TokenizerSpec(bpe=BpeTokenizerSpec(vocab_size=1024))) == Vocabulary(1024)
    for path in (f"{tmp_path}/absent", "hf://owner/name"):
        found = vocabulary_of(TokenizerSpec(tokenizer_json=TokenizerJsonSpec(path=path)))
        row = estimate(COMPILED, replace(RUN, vocabulary=found), RATES, IDEAL, NOW).sections["model"][0]
        assert (row.value, row.basis) == (131_072, "assumed")
        assert row.note == f"{path} is not on this machine; set spec.tokenizer.tokenizerJson.path to a copy"
    assert estimate(COMPILED, RUN, RATES, IDEAL, NOW).sections["model"][0].basis == "computed"

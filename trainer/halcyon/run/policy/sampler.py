"""The task ``sample``: a sampler of a pool, which samples the answers of a run until that run is done.

Its document is that of the run, with another name and its own hardware; its checkpoint root is that of the run, in
which it writes answers and leases alone (`halcyon.run.policy.pool`). It keeps nothing: a lost sampler loses the batch
in progress, and another one samples it again.
"""

import json
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from halcyon.checkpoint import opening, published
from halcyon.checkpoint.fingerprints import fingerprints
from halcyon.checkpoint.processes import decide
from halcyon.checkpoint.verify import Damaged
from halcyon.data.open import dataset_of
from halcyon.host.documents import DEFAULT_COMPILATION_CACHE
from halcyon.host.errors import BadConfiguration, NoValidCheckpoint
from halcyon.host.storage.records import DamagedRecord
from halcyon.run import auto_tuning, checks, programs
from halcyon.run.context import Context, Surroundings
from halcyon.run.data import caches_of, checked
from halcyon.run.place import Place, session
from halcyon.run.policy import ahead, pool, rollouts
from halcyon.run.policy.sampling import Sampling
from halcyon.step.program import Program, build_program
from halcyon.telemetry import RunReporter
from halcyon_api.checkpoint_documents import Fingerprints
from halcyon_api.counting import counted

_PAUSE_SECONDS = 0.2
_ROUND_SECONDS = 5.0
"""Longest wait of process 0 for work before it tells the others that there is none."""


def sample_answers(
    context: Context, reporter: RunReporter, around: Surroundings, compilation_cache: Path | None
) -> str:
    """Sample the answers of a run until it is done.

    Args:
        context: The sampler, with the run's document, and this process's place in it.
        reporter: Receives the progress.
        around: The program around it.
        compilation_cache: See `halcyon.run.train.train`.

    Returns:
        One sentence with the number of batches.

    Raises:
        TrainerExit: The answers cannot be sampled; the class gives the cause and the exit code.
    """
    context = checked(context)
    checks.check_sections(context.spec)
    caches = caches_of(context, reporter, around)
    with session(context, reporter, around) as joined, ExitStack() as last:
        place, mesh = joined.lay_out()
        last.callback(programs.open_cache(place, compilation_cache or DEFAULT_COMPILATION_CACHE).close)
        place = place.with_spec(auto_tuning.without_choice(place.spec, place.context.mesh))
        reporter.stage("restoring")
        dataset = dataset_of(place.spec, *caches)
        tokenizer = dataset.tokenizer
        program = build_program(place.spec, tokenizer.vocab_size, mesh, tokenizer=tokenizer)
        reporter.event("determinism", program.determinism_in_effect)
        prints = fingerprints(place.spec, data=dataset.description)
        return Sampler(place, program, Sampling(dataset, program, place, lambda: 0), prints).run()


class Sampler:
    """A sampler, with everything that it needs already open.

    Args:
        place: The run, and this process's place in the sampler.
        program: The program of the run, on the sampler's devices.
        sampling: Samples the answers.
        prints: The fingerprints of the sampler.
    """

    def __init__(self, place: Place, program: Program, sampling: Sampling, prints: Fingerprints) -> None:
        self._place, self._sampling, self._store = place, sampling, place.root()
        self._template, self._sections = program.template.model, dict(prints.sections)
        self._leases = pool.Leases(self._store, place.context.process_name())
        self._known: dict[str, pool.Weights] = {}

    def run(self) -> str:
        """Sample until the run is done, and return one sentence about it."""
        reporter, processes, root = self._place.reporter, self._place.processes, self._store.root
        count, model, held = 0, None, ""
        while True:
            reporter.stage("waiting")
            found = decide(processes, root, self._next)
            if found.get("done"):
                return f"the run in {root} is done; {counted(count, 'batch', 'batches')} sampled"
            if "name" not in found:
                continue
            name, weights = (
                rollouts.RolloutName(*found["name"]),
                pool.Weights.model_validate_json(json.dumps(found["weights"])),
            )
            if weights.prefix != held:
                model, held = None, ""  # its memory, before the next ones are read
                reporter.stage("restoring")
                try:
                    model = published.read_published(self._store, weights, self._template, processes)
                except Damaged as damage:
                    decide(processes, root, lambda name=name, why=str(damage): self._check_deleted(name, why))
                    continue
                held = weights.prefix
            reporter.stage("sampling")
            began = time.monotonic()
            sampled = self._sampling.sampled(name.batch, model, name.batch + 1)
            asked, seed = self._sampling.asked(name.batch), self._place.spec.trainer.seed
            rollout = ahead.rollout_of(name.batch, name.version, seed, asked, sampled)
            decide(processes, root, lambda name=name, rollout=rollout: self._keep(name, rollout))
            seconds = time.monotonic() - began
            if count:  # the first batch compiles
                self._leases.batch_seconds = seconds
            tokens = int(sampled.answered.counts.sum())
            reporter.event("sampled", batch=name.batch, version=name.version, tokens=tokens, seconds=seconds)
            count += 1

    def _next(self) -> dict[str, Any]:
        """The next batch whose lease this sampler has; nothing after a while without one."""
        until = time.monotonic() + _ROUND_SECONDS
        while True:
            try:
                work = pool.open_work(self._store, self._known)
            except Damaged as damage:
                raise NoValidCheckpoint(f"{self._store.root}: {damage}; start the run again") from None
            for name, weights in work:
                if self._leases.take(name):
                    self._check_document(weights)
                    return {"name": list(name), "weights": weights.document()}
            head = opening.load_head(self._store)[0]
            newest = None if head is None else head.newest
            if not work and newest is not None and newest.step >= self._place.spec.trainer.steps:
                return {"done": True}
            if time.monotonic() >= until:
                return {}
            time.sleep(_PAUSE_SECONDS)

    def _check_document(self, weights: pool.Weights) -> None:
        if others := sorted(
            name
            for name in {*self._sections, *weights.sections}
            if self._sections.get(name) != weights.sections.get(name)
        ):
            raise BadConfiguration(
                f"{', '.join(others)}: not as in the run in {self._store.root}; a sampler has the document of its run, "
                "with another name and accelerator"
            )

    def _check_deleted(self, name: rollouts.RolloutName, why: str) -> dict[str, Any]:
        """Raise an error about weights that cannot be read, unless the run has deleted them meanwhile."""
        if any(there == name for there, _ in pool.open_work(self._store, self._known)):
            raise NoValidCheckpoint(
                f"{self._store.root}: the weights of step {name.version} are damaged ({why}); start the run again"
            )
        return {}

    def _keep(self, name: rollouts.RolloutName, rollout: rollouts.Rollout) -> dict[str, Any]:
        """Write answers, unless another sampler has; theirs must have the same bits."""
        try:
            why = rollouts.keep_first(self._store, name, rollout)
            if self._sampling.policy.environment is not None:
                why = None  # it may say other words each time
        except DamagedRecord as damage:
            why = str(damage)
        if why is not None:
            raise BadConfiguration(
                f"{self._store.root}: batch {name.batch} has other answers from another sampler with the same weights "
                f"({why}); give all samplers of a run one kind of accelerator, with equal topologies"
            )
        self._leases.give_back(name)
        return {}

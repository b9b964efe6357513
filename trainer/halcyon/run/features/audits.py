"""The audits of a training (``spec.recovery.audit``): at the start, every N steps, after the last one, and before each
save.

An audit comes before the save of the same step, so no state that fails it is saved. All processes have the same digests
and come to the same decision: the newest checkpoints that no audit has confirmed leave HEAD, and all processes end. The
processes that computed wrong numbers report it, the others report that they ended because of these, so the operator
blames the right node.
"""

import time

from halcyon.checkpoint.rollback import Distrust, KeepsNewest
from halcyon.host.errors import BadConfiguration, Corrupted
from halcyon.run.callback import Callback
from halcyon.run.setup import Setup
from halcyon.step.audit import Audit, Finding
from halcyon.step.objectives.objective import Batch
from halcyon.step.state import TrainState
from halcyon_api.counting import counted
from halcyon_api.spec.recovery import AuditSpec

_DIFFERS = {
    "gradient": "two computations of a gradient differ",
    "state": "copies of the state differ",
    "products": "products of the same matrices differ",
}


class Audits(Callback):
    """The audits of a training. Creating it is a collective.

    Args:
        spec: ``spec.recovery.audit``.
        setup: The training. The numbers of its steps keep the step of the last audit.

    Raises:
        BadConfiguration: The steps of the program do not repeat their bits.
        Corrupted: A device multiplies the same matrices to other bits.
    """

    saves = False

    def __init__(self, spec: AuditSpec, setup: Setup) -> None:
        checkpointer, numbers, programs = setup.checkpointer, setup.numbers, setup.programs
        program = programs.program
        if program.determinism_in_effect == "fast":
            raise BadConfiguration(
                "spec.recovery.audit: with trainer.determinism: fast two computations of the same numbers may differ; "
                "set trainer.determinism: bitwise, or remove recovery.audit"
            )
        self._spec, self._place, self._checkpointer, self._numbers = spec, setup.place, checkpointer, numbers
        self._programs, self._program = programs, program
        self._audit, self._checked = Audit(program, programs.further), -1
        self._sizes: set[tuple[int, int]] = set()
        """Sizes of batches whose audit is being compiled, or is compiled."""
        newest = checkpointer.newest
        # The first audit of a run has nothing older to trust than what it began with.
        began = 0 if newest is None else newest.step
        numbers.audited = began if newest is None or newest.audited is None else newest.audited
        if finding := self._audit.products():
            self._suspect(began, finding)
        checkpointer.add_reader(KeepsNewest(lambda step: step <= (numbers.audited or 0), checkpointer.committed))

    def stepped(self, step: int, state: TrainState, batch: Batch) -> None:
        """Audit the step if it is due.

        Raises:
            Corrupted: The numbers are wrong, and the run must go back.
        """
        if (size := self._program.size_of(batch)) not in self._sizes:
            self._sizes.add(size)
            self._programs.beside(lambda: self._audit.compiled(*size))
        if not self._spec.is_due(step, is_last=step == self._place.spec.trainer.steps):
            return
        reporter, began = self._place.reporter, time.perf_counter()
        reporter.stage("auditing")
        finding = self._audit.state(state) or self._audit.gradient(state, batch)
        reporter.stage("training")
        self._checked = step
        if finding is not None:
            self._suspect(step, finding)
            return
        self._numbers.audited = step
        reporter.event("audited", step=step, seconds=round(time.perf_counter() - began, 3))

    def saving(self, step: int, state: TrainState) -> None:
        """Compare the copies of a state before it is saved.

        Raises:
            Corrupted: They differ, and the run must go back.
        """
        if step == self._checked:
            return
        self._place.reporter.stage("auditing")
        if finding := self._audit.state(state):
            self._suspect(step, finding)

    def _suspect(self, step: int, finding: Finding) -> None:
        processes = finding.processes(self._program.mesh)
        found = sentence(step, finding, processes)
        self._place.reporter.event("corrupted", step=step, processes=processes, message=found)
        if self._spec.on_mismatch == "report":
            return
        self._checkpointer.go_back(Distrust(self._numbers.audited or 0, found))
        kept, target = self._checkpointer.newest, "the beginning"
        if kept is not None:
            unsure = ", which no audit has confirmed" if kept.step > (self._numbers.audited or 0) else ""
            target = f"step {kept.step}{unsure}"
        raise Corrupted(f"{found}; the run goes on from {target}", processes)


def sentence(step: int, finding: Finding, processes: tuple[int, ...]) -> str:
    """What an audit found, in one sentence."""
    where = f"{counted(len(finding.devices), 'device')} of {_named(processes)}"
    verb = "has wrong numbers" if len(finding.devices) == 1 else "have wrong numbers"
    if not finding.certain:
        verb = "may have wrong numbers, and no majority says which"
    return f"step {step}: {_DIFFERS[finding.what]}: {where} {verb}"


def _named(processes: tuple[int, ...]) -> str:
    if len(processes) == 1:
        return f"process {processes[0]}"
    if processes == tuple(range(processes[0], processes[-1] + 1)):
        return f"processes {processes[0]} to {processes[-1]}"
    return f"processes {', '.join(map(str, processes))}"

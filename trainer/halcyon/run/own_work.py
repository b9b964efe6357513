"""Measures the own work of each process, which waits for no other process, and names the slow one
(``spec.recovery.straggler``).

The collectives of a step end on all processes at the same time, so the time of a step does not show whom the others
wait for. So the devices of each process compute a fixed product of their own between two steps. It is dispatched behind
one step and before the next, so the loop waits for nothing; a thread takes the time from the end of the step to the end
of the product. On processors the next step runs beside it, in all processes alike. A host that loads its data slowly
is not seen here, but in the time that its steps wait for data.

Process 0 asks all over the lifeline to measure after the same step, so that the others do not wait for one after the
other, and gets the answers over it. The products take less than one part in `_SPACING` of the time.
"""

import math
import time
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from halcyon.host.storage.files import begin
from halcyon.parallel.lifeline import Lifeline
from halcyon.parallel.stragglers import StragglerRule
from halcyon.run.callback import Callback
from halcyon.run.place import Place
from halcyon.run.programs import Programs
from halcyon.step.audit import product_words
from halcyon.step.objectives.objective import Batch
from halcyon.step.state import TrainState
from halcyon_api.spec.recovery import StragglerSpec
from halcyon_api.status.progress import SlowProcess

_SPACING = 256
"""Pause between two measurements, as a multiple of the time of the longest product."""
_FIRST_SECONDS = 10.0
"""Time until the first measurement. A short run has none, and compiles nothing for it."""
_PRODUCTS, _PRODUCTS_ON_CPU = (128, 2048), (16, 256)
"""Number and side of the matrices: some ten milliseconds, which is long beside the time for which another thread of the
interpreter may delay the clock.
"""
_MEASURE = b"m"
"""From process 0: measure after this number of steps."""
_MEASURED = b"w"
"""To process 0: the index of a process, and its microseconds."""
_BITS = 32


class OwnWork(Callback):
    """The measurements of a process, and on process 0 the rule.

    Args:
        place: The run and its processes.
        lifeline: The connection to the others.
        programs: The programs of the run, beside whose steps the product is compiled.
        at_start: The process that was slow before the first step.
    """

    def __init__(self, place: Place, lifeline: Lifeline, programs: Programs, at_start: SlowProcess | None) -> None:
        self._processes, self._reporter = place.processes, place.reporter
        self._lifeline, self._programs = lifeline, programs
        spec = place.spec.recovery.straggler or StragglerSpec()
        self._rule = StragglerRule(spec, self._processes.process_count, at_start)
        self._product = None
        self._devices, self._size = jax.local_devices(), _PRODUCTS
        if jax.default_backend() == "cpu":
            self._devices, self._size = self._devices[:1], _PRODUCTS_ON_CPU  # all of them are the same cores
        self._wanted = math.inf
        """Steps after which to measure."""
        self._due = time.monotonic() + _FIRST_SECONDS
        """When process 0 asks."""
        self._answers = np.zeros(self._processes.process_count)
        """On process 0, the microseconds of each process; 0: it has not answered."""
        lifeline.listen(self._on_message)

    def stepped(self, step: int, state: TrainState, batch: Batch) -> None:
        """Measure, if process 0 has asked for it."""
        if self._processes.is_main:
            self._lead(step)
        if step < self._wanted:
            return
        self._wanted = math.inf
        if self._product is None:
            self._programs.beside(self._compile)
            return
        try:
            # Copies, because the next step takes the memory of its state.
            ended = [shard.data + 0 for shard in state.step.addressable_shards if shard.device in self._devices]
            products = [self._product(one) for one in ended]
        except RuntimeError as error:
            self._reporter.warning(f"own work cannot be measured, so no slow process is found any more: {error}")
            return
        begin(lambda: self._time(ended, products), name="own-work")

    def _lead(self, step: int) -> None:
        """Judge the answers of all processes, and ask for the next ones."""
        now = time.monotonic()
        if self._answers.all():
            seconds, self._answers = self._answers / 1e6, np.zeros_like(self._answers)
            self._due = now + _SPACING * float(seconds.max())
            found, known = self._rule.measured(step, seconds), self._reporter.observe().slow
            self._reporter.knows(slow=found)
            if found is not None and (known is None or known.process != found.process):
                self._reporter.event("slow", found, slow_process=found.process)
        if now >= self._due:
            self._due, self._wanted = math.inf, step + 2
            self._lifeline.send(_MEASURE, step + 2, kept=False)

    def _compile(self) -> None:
        """Compile the product for each device, by its first call. Then measure."""
        number, side = self._size

        @jax.jit
        def own_product(ended: jax.Array) -> jax.Array:
            # It depends on the step, so it begins after its end.
            return product_words(jnp.arange(number, dtype=jnp.uint32) + ended.astype(jnp.uint32), side)

        jax.block_until_ready([own_product(jax.device_put(0, device)) for device in self._devices])
        self._product, self._wanted = own_product, 0

    def _time(self, ended: Sequence[jax.Array], products: Sequence[jax.Array]) -> None:
        """Take the time from the end of a step to that of all products, and report it."""
        jax.block_until_ready(ended)
        began = time.perf_counter()
        jax.block_until_ready(products)
        seconds = time.perf_counter() - began
        self._reporter.knows(own_work_seconds=seconds)
        number = self._processes.process_index << _BITS | max(1, round(seconds * 1e6))
        if self._processes.is_main:
            self._on_message(_MEASURED, number)
        else:
            self._lifeline.send(_MEASURED, number, kept=False)

    def _on_message(self, kind: bytes, number: int) -> None:
        """Handle a message of another process, in a thread of the lifeline."""
        if kind == _MEASURE:
            self._wanted = number
        elif kind == _MEASURED:
            self._answers[number >> _BITS] = number % (1 << _BITS)

"""Turns text on a machine or in a store into the batch of a step: a pure function of the run document and the step.

The stages are ``sources`` (files, rows) -> ``formats`` (rows to tokens) -> ``cache`` (stored tokens) -> ``layout``
(documents to sequences) -> ``split`` (training or held out) -> ``order`` (a keyed permutation, a new one for each
epoch) -> ``mixture`` (the source of each position) -> ``batch_schedule`` (the positions of a step) -> ``dataset`` (the
examples of a step) -> ``loader`` (prefetched global arrays on the devices). No state is carried from step to step. So
there is no iterator state to save, the examples of any step can be computed directly, and they do not depend on the
number of processes or devices.
"""

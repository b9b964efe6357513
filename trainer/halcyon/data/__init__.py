"""From text on a machine or in a store to the batch of a step: a pure function of the run document and the step.

The way is ``sources`` (files, rows) -> ``formats`` (rows to tokens) -> ``cache`` (tokens, kept) -> ``layout`` (documents to sequences) ->
``split`` (which are held out) -> ``order`` (a keyed permutation, drawn anew for every epoch) -> ``mixture`` (whose turn it is) ->
``schedule`` (the positions of a step) -> ``dataset`` (the examples of a step) -> ``loader`` (global arrays on the devices, made ahead).
Nothing is carried from step to step, so there is no iterator state to save, any step is reached at once, and the examples of a step do not
depend on how many processes or devices there are.
"""

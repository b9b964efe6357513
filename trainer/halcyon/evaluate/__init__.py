"""Loss and bits per byte on the held-out part of the data.

Nats, weights and bytes are summed over all batches and divided once, so neither the batch size nor padding nor the number of processes
changes the result beyond rounding. Bits per byte, ``nats / (ln 2 x bytes of the predicted tokens)``, can be compared between tokenizers;
special tokens cost nats like all others and stand for no bytes.
"""

from halcyon.evaluate.evaluation import Evaluation, EvaluationSums, evaluate, make_evaluation_step, total

__all__ = ["Evaluation", "EvaluationSums", "evaluate", "make_evaluation_step", "total"]

"""From text on a machine to the batch of a step: a pure function of the run document and the step.

The way is ``sources`` (documents) -> ``tokenizer`` -> ``stream`` (one array of token ids) -> ``windows`` (which part of it is training,
which is held out) -> ``order`` (a keyed permutation, drawn anew for every epoch) -> ``dataset`` (examples by index) -> ``loader`` (global
arrays on the devices, made ahead by one thread). Nothing is carried from step to step, so there is no iterator state to save, any step is
reached at once, and the examples of a step do not depend on how many processes or devices there are.
"""

from halcyon.data.dataset import Dataset, Examples, open_dataset
from halcyon.data.loader import Batch, Loader
from halcyon.data.tokenizer import ByteTokenizer, Tokenizer, build_tokenizer

__all__ = ["Batch", "ByteTokenizer", "Dataset", "Examples", "Loader", "Tokenizer", "build_tokenizer", "open_dataset"]

"""The weights and the configuration of each family in the files of Hugging Face models.

One file for each family declares, as data, which tensors of the files hold which parameters (`tensors`), and has two functions that turn
``config.json`` into a section of ``spec.model`` and back. `layout` computes everything else from the declaration: reading, writing, and the
check of names and shapes. Nothing here reads or writes files: `halcyon.huggingface` does.
"""

from halcyon.models.weights.family import Family as Family
from halcyon.models.weights.layout import FileTensor as FileTensor
from halcyon.models.weights.layout import LeafShape as LeafShape
from halcyon.models.weights.layout import WeightLayout as WeightLayout
from halcyon.models.weights.layout import leaf_shapes as leaf_shapes
from halcyon.models.weights.registry import family_of_config as family_of_config
from halcyon.models.weights.registry import family_of_section as family_of_section

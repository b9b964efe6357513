"""The words in which a family's file states its form in the files of Hugging Face: names, axes, keys of config.json.

Everything here is a plain value or computes one. Nothing imports JAX, and nothing reads or writes files:
`halcyon.weights` does, from these declarations. So the file of a family can hold its declaration too, and a
training that imports the family loads no code for files.
"""

from halcyon.models.published.config import ConfigReader as ConfigReader
from halcyon.models.published.config import PublishedModel as PublishedModel
from halcyon.models.published.decoder_config import DecoderConfig as DecoderConfig
from halcyon.models.published.tensors import Layers as Layers
from halcyon.models.published.tensors import Tensor as Tensor
from halcyon.models.published.tensors import Tensors as Tensors
from halcyon.models.published.tensors import decoder_tensors as decoder_tensors

"""Text from models: decoding with a cache, sampling, and an engine for many requests at once.

`sampling` chooses the next token, `engine` computes sequences in slots, `text` turns tokens into text, `generating`
joins them for library users. The cache itself belongs to the models (`halcyon.models.cache`).
"""

from halcyon.inference.engine import Engine
from halcyon.inference.generating import Completion, Piece, generate, pieces
from halcyon.inference.sampling import Sampling
from halcyon.inference.sequence import Sequence, Token

__all__ = ["Completion", "Engine", "Piece", "Sampling", "Sequence", "Token", "generate", "pieces"]

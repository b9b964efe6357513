"""Tokenizers turn text into token ids and back: bytes, ``tokenizer.json``, tiktoken, SentencePiece, and BPE trained by
Halcyon.
"""

from halcyon.tokenizer.definition import BYTE as BYTE
from halcyon.tokenizer.definition import TokenizerDefinition as TokenizerDefinition
from halcyon.tokenizer.loading import load as load
from halcyon.tokenizer.protocol import Tokenizer as Tokenizer
from halcyon.tokenizer.protocol import around as around
from halcyon.tokenizer.protocol import check_rows as check_rows
from halcyon.tokenizer.protocol import first_id as first_id
from halcyon.tokenizer.protocol import named_specials as named_specials
from halcyon.tokenizer.resolve import resolve as resolve

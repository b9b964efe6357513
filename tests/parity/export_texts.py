"""What `tests.parity.exports` and `tests.parity.read_exports` ask of an exported model. It imports nothing."""

TEXT = "The capital of Canada is Ottawa.\n\nWhat is the capital of Chile?"
QUESTION = "What is the capital of Canada?"
MOST_TOKENS = 80

"""The token cache: documents tokenized once, into immutable checksummed shards that any number of runs and hosts read.

The way is ``work`` (rows of a piece to tokens, in worker processes) -> ``build`` (pieces in order to shards, shards to the ledger) ->
``reader`` (tokens at any offset). ``ledger`` says what a cache is made of and what it holds; ``election`` lets one of many hosts build.
"""

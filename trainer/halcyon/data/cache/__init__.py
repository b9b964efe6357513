"""The token cache: documents are tokenized once, into immutable checksummed shards that any number of runs and hosts
can read.

The stages are ``work`` (rows of a piece to tokens, in worker processes) -> ``build`` (pieces in order to shards, shards
to the ledger) -> ``reader`` (tokens at any offset). ``ledger`` records the inputs and the shards of a cache;
``election`` chooses one of many hosts to build.
"""

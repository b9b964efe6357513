"""Training order of a source's sequences: a pure function maps positions of an endless run to ranks in an epoch.

`Order` (`epochs`) maps a position to an epoch and a place, and applies the order of that epoch. This is one of four: a
keyed permutation (`permutation`) of all sequences; a permutation of blocks of sequences and then inside windows of
blocks, or inside windows of the text (`windows`); or the order of the text.
"""

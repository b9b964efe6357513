"""Tasks in the formats that they are published in: their rows, prompts and the rules by which answers are right. Pure, except for reads.

One file has one task; `registry` names them. `core` reads the bundle of CORE. `halcyon.benchmarks` asks the models.
"""

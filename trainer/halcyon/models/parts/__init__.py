"""The parts that model families are made of: linear maps, embeddings, norms, rotary positions, attention.

Whole models belong to `families`; nothing here knows the name of a family or the mesh.
"""

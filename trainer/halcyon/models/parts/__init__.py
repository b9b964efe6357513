"""The parts that model families are made of: linear maps, embeddings, norms, rotary positions, attention.

Complete models belong to `families`. A part depends neither on a family nor on the mesh.
"""

"""Generators of the files that follow from the types: the CRDs, JSON schemas, reference pages, and the scripts for Argo
CD.
"""

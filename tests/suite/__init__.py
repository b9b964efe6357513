"""The test suite: tiers and parts, limits, the record and the report of a run, and the page of promises and their
tests.
"""

"""Statements about a root that others can check, for ``halcyon prove``: their form, what the root shows, the signature,
and the check.
"""

"""Jinja as chat templates use it: the sandbox, what templates of Hugging Face expect in it, and strings that keep what
they are.

A process of its own imports this package (`halcyon.host.budgets.apart`), so it imports nothing but Jinja.
"""

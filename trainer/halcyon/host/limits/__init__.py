"""Budgets for what strangers give: files of models and data sets can be small and still ask for unbounded time or
memory.
"""

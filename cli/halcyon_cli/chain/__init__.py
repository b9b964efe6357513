"""The report card of a chain of runs: what each stage trained on, what it cost, and what its model can do.

``reading`` reads the roots and follows their lineage, ``stage`` has the values of a stage and what follows from them,
``card`` the report with its template, ``writing`` writes it. All but ``reading`` are pure.
"""

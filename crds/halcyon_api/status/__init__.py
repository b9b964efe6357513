"""``status`` of a run, with one module for each of its sections, and the report of a trainer that fills most of it."""

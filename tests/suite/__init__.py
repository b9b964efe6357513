"""The suite as a whole: its tiers and parts, the limits and the record of a run, the report, and the page that says which test proves what."""

"""Turns a training configuration of Levanter into a TrainingRun.

`rows.yaml` says for each setting of Levanter where it is here, or why it is no setting; the guide's page is generated
from it. `conversion` copies what has the same value in both, and calls `sections` for what has another form. Settings
are those of Levanter at commit 9263f81.
"""

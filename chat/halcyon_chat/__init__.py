"""`make chat`: from the text of the Python standard library to a chat page, on one machine.

`cli` reads top to bottom. The stages are the runs of examples/chat in the order of their `after`, and the commands before and behind them
(`chain`). `local` gives a document its form for this machine. Each stage is a process of `halcyon` (`processes`). A stage that has ended
well is recorded (`records`), so that the same command goes on behind it. A stage that was killed is started again, and its run goes on from
its last checkpoint: nothing of a run is kept here.
"""

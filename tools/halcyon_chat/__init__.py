"""`make chat`: from the text of the Python standard library to a chat page, on one machine.

`cli` reads top to bottom. The stages are the runs of examples/chat in the order of their `after`, and the commands
before and after them (`chain`). `local` adapts a document to this machine. Each stage is a process of `halcyon`
(`processes`). A stage that has succeeded is recorded (`records`), and the next `make chat` skips it. A stage that was
killed is started again. The state of a run is only in its checkpoint root, so the run goes on from its last checkpoint.
"""

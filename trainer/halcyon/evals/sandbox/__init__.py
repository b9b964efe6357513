"""Runs programs that a model wrote, without letting them reach anything on the machine.

`running` starts a program in a process of its own and reads what it prints. In that process `child` takes every right
away before the program begins: Landlock forbids files, a seccomp filter allows only system calls that compute, and
limits bound processor time and memory. All three are kept by the kernel, so no trick inside the interpreter gives a
right back. Where the kernel cannot do this, nothing is run.

`execution` runs the program after that. Each program has a process of its own, unlike the code of strangers in
`halcyon.host.limits.apart`: a program could wait in a process that goes on, and answer for the next one.

This file imports nothing: the process of the program imports `child`, and it must start fast and hold nothing of the
trainer.
"""

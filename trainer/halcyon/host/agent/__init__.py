"""The supervisor of a pod (``halcyon-agent``): the container's first process, which starts the trainer and, when a
process of the run has ended, starts it again in the pod.

- `lineage`: what outlives the processes of a run, as a value.
- `rendezvous`: decides, beside process 0, when all processes start together. Pure.
- `lines`: a connection that carries documents.
- `leader`: the supervisor beside process 0, as the others see it.
- `place`: the pod's place in its run.
- `supervisor`: the process itself.
- `link`: the trainer's end of the connection to its supervisor.

**A start in place.** When a process ends, its supervisor tells the one beside process 0 (the leader), and that one
tells all: the others end their processes too, if these have not ended by themselves. Each supervisor then lets the
next process go on as far as the join. When all processes of the run wait there, and so every old one has ended, the
leader lets them join. A supervisor whose pod is lost has no connection; the leader waits for that of the new pod.

**What ends the pod instead**: the trainer's work is done; the pod itself is asked to end; a reserved exit code, after
which the operator decides; an error before the join; a second failure without a checkpoint since the first, because a
crash loop belongs to the operator's budget; or nobody comes back in time. If the same process failed both times, in the
same pod, its device may be broken: this pod alone ends (44), once, and the others wait for the one that replaces it.

**Fencing.** The leader draws the nonce with which process 0 takes the checkpoint root, and every supervisor keeps the
nonces of all starts (`Lineage.writers`). A process that starts in place refuses a root that another writer has taken
since: after a partition the pods that were replaced cannot take it back.

These modules import nothing but the standard library and the exit codes, so the trainer starts at once.
"""

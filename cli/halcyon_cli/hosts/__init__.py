"""The operator of one run on hosts without a cluster: SLURM's nodes, or machines that ssh reaches.

It is one more edge around the operator's own decisions. What Kubernetes, JobSet and a scheduler are in a cluster is
here a process for each host, a few rules and a list of hosts. `views` and `rules` are pure; `process`, `group`,
`places` and `manager` do the I/O.
"""

"""A real single-node Kubernetes on this machine, for the demo and the tests.

```python
from halcyon_devcluster import Faults, open_cluster

cluster = open_cluster()          # kind if a Docker engine answers, otherwise namespaces of this machine
cluster.up()
cluster.kubectl("get", "pods", "--all-namespaces")
Faults(cluster).evict("team", "run-0-0-abcde")
cluster.down()
```
"""

from halcyon_devcluster.cluster import Cluster, ClusterStatus, ComponentStatus
from halcyon_devcluster.errors import DevclusterError
from halcyon_devcluster.factory import open_cluster
from halcyon_devcluster.faults import Faults
from halcyon_devcluster.forwarding import forwarded
from halcyon_devcluster.kubectl import Kubectl

__all__ = [
    "Cluster",
    "ClusterStatus",
    "ComponentStatus",
    "DevclusterError",
    "Faults",
    "Kubectl",
    "forwarded",
    "open_cluster",
]

"""`kubectl port-forward` as a context manager, to reach a pod or a service from the host with both backends."""

import re
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager

from halcyon_devcluster.errors import DevclusterError
from halcyon_devcluster.kubectl import Kubectl

_LINE = re.compile(r"Forwarding from 127\.0\.0\.1:(\d+)")


@contextmanager
def forwarded(kubectl: Kubectl, namespace: str, target: str, port: int) -> Iterator[str]:
    """Forward a free local port to a port of `target` during the block.

    Args:
        kubectl: kubectl against the cluster.
        namespace: The target's namespace.
        target: Such as `pod/NAME` or `service/NAME`; a service is resolved once, to one of its pods.
        port: The target's port.

    Yields:
        The URL `http://127.0.0.1:PORT`, without a path.

    Raises:
        DevclusterError: the target cannot be reached.
    """
    command = [
        kubectl.program,
        "--kubeconfig",
        kubectl.kubeconfig,
        "port-forward",
        "--namespace",
        namespace,
        target,
        f":{port}",
    ]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, text=True
    ) as process:
        try:
            lines = []
            for line in process.stdout or ():
                lines.append(line.strip())
                if found := _LINE.search(line):
                    yield f"http://127.0.0.1:{found[1]}"
                    return
            raise DevclusterError(f"Port {port} of {namespace}/{target} cannot be forwarded: {' '.join(lines)[-500:]}")
        finally:
            process.terminate()

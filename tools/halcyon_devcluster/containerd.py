"""Calls `ctr`, the client of the node's containerd: imports images, finds the containers of a pod, removes leftovers.

The same client works for both backends: on the host with the native cluster's socket, and through `docker exec` inside
a kind node.
"""

import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from halcyon_devcluster.commands import run, succeeds
from halcyon_devcluster.errors import DevclusterError
from halcyon_devcluster.machine import limit

NAMESPACE = "k8s.io"
IMAGE_ID_LABEL = "halcyon.dev/image-id"
_SANDBOX_FILTER = 'labels."io.cri-containerd.kind"==container'


@dataclass(frozen=True)
class Task:
    """A running container's main process.

    Attributes:
        container: containerd's id of the container.
        pid: Process id in the namespace of the client's host.
        status: State of the process, such as RUNNING.
    """

    container: str
    pid: int
    status: str


def parse_tasks(table: str) -> list[Task]:
    """Parse the output of `ctr tasks ls`. Pure."""
    rows = (line.split() for line in table.splitlines()[1:])
    return [Task(fields[0], int(fields[1]), fields[2]) for fields in rows if len(fields) >= 3]


def parse_image_ids(table: str) -> dict[str, str]:
    """Parse the output of `ctr images ls` into image name → the id that `load` stored in a label. Pure."""
    found = {}
    for line in table.splitlines()[1:]:
        fields = line.split()
        for label in fields[-1].split(",") if fields else ():
            key, _, value = label.partition("=")
            if key == IMAGE_ID_LABEL:
                found[fields[0]] = value
    return found


def container_filter(namespace: str, pod: str) -> str:
    """Return the filter that selects the containers of a pod, not its sandbox. Pure."""
    return f'{_SANDBOX_FILTER},labels."io.kubernetes.pod.namespace"=={namespace},labels."io.kubernetes.pod.name"=={pod}'


@dataclass(frozen=True)
class Ctr:
    """`ctr` in containerd's namespace of Kubernetes.

    Attributes:
        prefix: The start of every command line, before the client's arguments.
    """

    prefix: tuple[str, ...]

    @classmethod
    def on_socket(cls, socket: Path) -> "Ctr":
        """Return a client of the containerd that listens at `socket`."""
        return cls(("ctr", "--address", str(socket), "--namespace", NAMESPACE))

    @classmethod
    def in_docker(cls, node: str) -> "Ctr":
        """Return a client of the containerd inside the Docker container `node`."""
        return cls(("docker", "exec", "--interactive", node, "ctr", "--namespace", NAMESPACE))

    def __call__(self, *arguments: str) -> str:
        """Run the client and return its output."""
        return run([*self.prefix, *arguments], timeout_seconds=limit(120))

    def answers(self) -> bool:
        """Whether containerd serves requests."""
        return succeeds([*self.prefix, "version"], timeout_seconds=limit(5))

    def image_ids(self) -> dict[str, str]:
        """Return image name → stored id of the images that this package has loaded."""
        return parse_image_ids(self("images", "ls"))

    def blobs(self) -> set[str]:
        """Return the digests of all content in containerd's store."""
        return set(self("content", "ls", "--quiet").split())

    def import_archive(self, chunks: Iterator[bytes], name: str, image_id: str) -> None:
        """Import an image archive from a stream, and store the image's id in a label, so that a second load of the
        image is skipped.
        """
        with subprocess.Popen(
            [*self.prefix, "images", "import", "-"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        ) as process:
            assert process.stdin is not None  # noqa: S101
            assert process.stdout is not None  # noqa: S101
            try:
                for chunk in chunks:
                    process.stdin.write(chunk)
                process.stdin.close()
            except BrokenPipeError:
                pass  # the client's output, read below, has the reason
            failure = process.stdout.read().decode(errors="replace")
        if process.returncode != 0:
            raise DevclusterError(f"containerd did not take the image {name}: {failure.strip()[-1000:]}")
        self("images", "label", name, f"{IMAGE_ID_LABEL}={image_id}")

    def containers(self, namespace: str, pod: str) -> list[str]:
        """Return the ids of a pod's containers, including ended ones."""
        return self("containers", "ls", "--quiet", container_filter(namespace, pod)).split()

    def tasks(self) -> list[Task]:
        """Return the running containers' main processes."""
        return parse_tasks(self("tasks", "ls"))

    def kill(self, container: str) -> None:
        """SIGKILL the main process of a container."""
        self("tasks", "kill", "--signal", "SIGKILL", container)

    def remove_all_containers(self) -> None:
        """End every task and remove every container with its writable layer; images stay."""
        for task in self.tasks():
            succeeds([*self.prefix, "tasks", "rm", "--force", task.container])
        if ids := self("containers", "ls", "--quiet").split():
            self("containers", "rm", *ids)

    def with_arguments(self, arguments: Sequence[str]) -> list[str]:
        """Return the whole command line for `arguments`."""
        return [*self.prefix, *arguments]

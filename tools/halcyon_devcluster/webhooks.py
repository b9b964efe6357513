"""Controllers with webhooks that make their own certificates: those of JobSet and Kueue.

Such a controller writes its certificate into a Secret that its own pod has mounted, and waits for the files. The
kubelet updates a mount when it next syncs the pod: at once after a change of the pod, otherwise after 60 to 90 seconds.
The controller checks for the files at growing intervals. So a controller that starts slightly late needs two minutes
instead of five seconds. A changed annotation makes the kubelet sync the pod
(https://kubernetes.io/docs/concepts/configuration/configmap/#mounted-configmaps-are-updated-automatically).
"""

import secrets
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

from halcyon_devcluster.errors import DevclusterError
from halcyon_devcluster.kubectl import Kubectl
from halcyon_devcluster.waiting import until

SYNC_ANNOTATION = "devcluster.halcyon.dev/looked-at"
"""Annotation of a controller's pods; a new value makes the kubelet sync them."""
_READY_SECONDS = 120
_LINES = 8


@dataclass(frozen=True)
class WebhookController:
    """A controller with webhooks.

    Attributes:
        title: Its name in messages.
        namespace: Its namespace, in which only its pods run.
        deployment: Name of its Deployment.
        certificate: Name of the Secret with its certificate.
    """

    title: str
    namespace: str
    deployment: str
    certificate: str

    def available(self, kubectl: Kubectl) -> bool:
        """Whether its Deployment is Available. Its webhooks may answer some seconds later."""
        return kubectl.condition("deployment", self.deployment, "Available", self.namespace)

    def wait(self, kubectl: Kubectl, answers: Callable[[], bool]) -> None:
        """Wait until the controller is Available and `answers()`, a test of its webhooks, returns true.

        Raises:
            DevclusterError: the limit has passed; the message ends with the state of its pods and the end of its log.
        """

        def ready() -> bool:
            if not self.available(kubectl):
                self._mount_the_certificate(kubectl)
                return False
            return answers()

        until(ready, timeout_seconds=_READY_SECONDS, interval_seconds=0.3, failure=lambda: self._why(kubectl))

    def _mount_the_certificate(self, kubectl: Kubectl) -> None:
        """Make the kubelet sync the pods, once the certificate exists."""
        here = ("--namespace", self.namespace)
        secret = ("get", "secret", self.certificate, *here, "--ignore-not-found", r"--output=jsonpath={.data.tls\.crt}")
        with suppress(DevclusterError):  # the caller tries again
            if kubectl(*secret):
                kubectl("annotate", "pods", "--all", "--overwrite", *here, f"{SYNC_ANNOTATION}={secrets.token_hex(4)}")

    def _why(self, kubectl: Kubectl) -> str:
        here = ("--namespace", self.namespace)
        sentence = f"{self.title} does not answer."
        for command in (
            ("get", "pods", "--output=wide"),
            ("logs", f"deployment/{self.deployment}", f"--tail={_LINES}"),
        ):
            try:
                sentence += f"\n{kubectl(*command, *here).rstrip()}"
            except DevclusterError as why:
                sentence += f"\n{why}"
        return sentence

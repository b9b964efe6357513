"""Controllers that stand before an API with webhooks and make the certificates for them on their own: JobSet's and Kueue's.

Such a controller writes its certificate into a Secret that its own pod has mounted, and waits for the files. The kubelet brings a mount up
to date when it next looks at the pod, which is at once after a change of the pod and else only after 60 to 90 seconds; the controller, for
its part, looks for the files at ever longer intervals. One that starts a moment late so takes two minutes instead of five seconds. A change
of an annotation makes the kubelet look (https://kubernetes.io/docs/concepts/configuration/configmap/#mounted-configmaps-are-updated-automatically).
"""

import secrets
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

from halcyon_devcluster.errors import DevclusterError
from halcyon_devcluster.kubectl import Kubectl
from halcyon_devcluster.waiting import until

LOOKED_AT = "devcluster.halcyon.dev/looked-at"
"""Annotation of a controller's pods: another value each time that the kubelet is to look at them."""
_READY_SECONDS = 120
_LINES = 8


@dataclass(frozen=True)
class WebhookController:
    """A controller that answers for an API.

    Attributes:
        title: What people call it.
        namespace: Where it alone runs.
        deployment: Its name there.
        certificate: Name of the Secret with its certificate.
    """

    title: str
    namespace: str
    deployment: str
    certificate: str

    def available(self, kubectl: Kubectl) -> bool:
        """Whether it reports Available. Its webhooks may answer some seconds later only."""
        return kubectl.condition("deployment", self.deployment, "Available", self.namespace)

    def wait(self, kubectl: Kubectl, answers: Callable[[], bool]) -> None:
        """Return when the controller is Available and `answers()` holds, which is to ask its webhooks for something.

        Raises:
            DevclusterError: not within the limit; the sentence ends with what its pods are at and what it said last.
        """

        def ready() -> bool:
            if not self.available(kubectl):
                self._mount_the_certificate(kubectl)
                return False
            return answers()

        until(ready, timeout_seconds=_READY_SECONDS, interval_seconds=0.3, failure=lambda: self._why(kubectl))

    def _mount_the_certificate(self, kubectl: Kubectl) -> None:
        """Make the kubelet look at the pods, once there is a certificate to be seen."""
        here = ("--namespace", self.namespace)
        secret = ("get", "secret", self.certificate, *here, "--ignore-not-found", r"--output=jsonpath={.data.tls\.crt}")
        with suppress(DevclusterError):  # nothing lost: it is asked again
            if kubectl(*secret):
                kubectl("annotate", "pods", "--all", "--overwrite", *here, f"{LOOKED_AT}={secrets.token_hex(4)}")

    def _why(self, kubectl: Kubectl) -> str:
        here = ("--namespace", self.namespace)
        sentence = f"{self.title} does not answer."
        for command in (("get", "pods", "--output=wide"), ("logs", f"deployment/{self.deployment}", f"--tail={_LINES}")):
            try:
                sentence += f"\n{kubectl(*command, *here).rstrip()}"
            except DevclusterError as why:
                sentence += f"\n{why}"
        return sentence

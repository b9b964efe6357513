"""A controller whose certificate is late does not wait for the kubelet's next sync.

If it never answers, the error reports its state.
"""

from dataclasses import dataclass, field
from pathlib import Path

import pytest

from halcyon_devcluster import DevclusterError, Kubectl, webhooks
from halcyon_devcluster.webhooks import SYNC_ANNOTATION, WebhookController

CONTROLLER = WebhookController("Queues", "queues", "controller", "certificate")


@dataclass(frozen=True)
class Scripted(Kubectl):
    """An API server in which the controller has its certificate from the third read on, and is Available once the
    certificate is mounted.

    Attributes:
        looked_at: Values of its pod's annotation, one for each write.
        asked: One entry for each read of the certificate.
        mounts: Syncs of the kubelet until the certificate is mounted.
    """

    looked_at: list[str] = field(default_factory=list)
    asked: list[str] = field(default_factory=list)
    mounts: float = 1

    def __call__(self, *arguments: str | Path, stdin: str | None = None, timeout_seconds: float | None = None) -> str:
        match arguments[:2]:
            case ("get", "secret"):
                self.asked.append("secret")
                if len(self.asked) == 1:
                    raise DevclusterError("the server is currently unable to handle the request")
                return "LS0t" if len(self.asked) > 2 else ""
            case ("annotate", "pods"):
                annotation = str(arguments[-1])
                assert annotation.startswith(f"{SYNC_ANNOTATION}=")
                self.looked_at.append(annotation)
                return ""
            case ("get", "pods"):
                return "controller-1   0/1   Running"
            case ("logs", "deployment/controller"):
                return "waiting for the certificate"
        raise AssertionError(arguments)

    def condition(self, kind: str, name: str, condition: str, namespace: str = "default") -> bool:
        assert (kind, name, condition, namespace) == ("deployment", "controller", "Available", "queues")
        return len(self.looked_at) >= self.mounts


def test_a_controller_with_its_certificate_is_checked_until_it_is_available():
    kubectl = Scripted(Path("kubectl"), Path("kubeconfig"), mounts=3)
    answers = iter([False, True])
    CONTROLLER.wait(kubectl, lambda: next(answers))
    assert len(kubectl.asked) == 5, "once an error, once empty, and then once for each sync"
    assert len(set(kubectl.looked_at)) == 3, "a repeated value would be no change, and cause no sync"
    assert next(answers, None) is None


def test_the_error_for_a_controller_that_never_answers_shows_its_state(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(webhooks, "_READY_SECONDS", 0.1)
    kubectl = Scripted(Path("kubectl"), Path("kubeconfig"), mounts=float("inf"))
    with pytest.raises(DevclusterError) as raised:
        CONTROLLER.wait(kubectl, lambda: True)
    assert str(raised.value) == "Queues does not answer.\ncontroller-1   0/1   Running\nwaiting for the certificate"

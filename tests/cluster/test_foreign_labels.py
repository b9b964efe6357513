"""Objects that the run does not own but that have all its labels: they must not change what happens to the run."""

from __future__ import annotations

from typing import Any

import pytest

from halcyon_devcluster.waiting import until
from tests.cluster.scripted import INTERVAL_SECONDS, Runs, causes, counts
from tests.cluster.workloads import pod_spec

pytestmark = [pytest.mark.cluster, pytest.mark.variant, pytest.mark.timeout(300)]

HIGH_ATTEMPT = 99998
ALONE, ADOPTED = "aaa", "aab"
"""Pods whose names sort before those of the run.

ADOPTED also has the labels of the run's Job, so Kubernetes makes it a pod of that Job.
"""
AT_ONCE = {"terminationGracePeriodSeconds": 0}
PRETENDER = """
import http.server, json
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        body = json.dumps({"step": 90000, "checkpoint": {"step": 90000}}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
http.server.HTTPServer(("", %d), Handler).serve_forever()
"""
"""Answers like process 0 of a run that is far ahead."""


def labelled(thing: dict[str, Any], name: str, **changed: str) -> dict[str, Any]:
    """Name and labels of an object of the run, for an object without an owner."""
    return {
        "name": name,
        "labels": thing["metadata"]["labels"] | {f"halcyon.dev/{key}": value for key, value in changed.items()},
    }


def without_job(metadata: dict[str, Any]) -> dict[str, Any]:
    """Name and labels without those by which the Job controller finds its pods."""
    return metadata | {
        "labels": {
            key: value for key, value in metadata["labels"].items() if key.startswith(("halcyon.dev/", "jobset."))
        }
    }


def test_foreign_objects_with_a_runs_labels_do_not_change_the_run(runs: Runs, name: str, python_image: str) -> None:
    runs.apply(name, "rate=10", "save=20")
    before = runs.training(name, step=25)
    (own,) = runs.objects("jobset", name)
    process = next(pod for pod in runs.objects("pod", name) if pod["metadata"]["name"].startswith(f"{name}-1-"))
    port = process["spec"]["containers"][0]["ports"][0]["containerPort"]
    job = {"name": "theirs", "template": {"spec": {"template": {"spec": pod_spec(python_image, "pass")}}}}
    runs.devcluster.kubectl.apply(
        [
            {
                "apiVersion": own.get("apiVersion", "jobset.x-k8s.io/v1alpha2"),
                "kind": "JobSet",
                "metadata": labelled(own, f"{name}-{HIGH_ATTEMPT}", attempt=str(HIGH_ATTEMPT)),
                "spec": {"suspend": True, "replicatedJobs": [job]},
            },
            *(
                {
                    "apiVersion": "v1",
                    "kind": "Pod",
                    "metadata": metadata,
                    "spec": pod_spec(python_image, PRETENDER % port, **AT_ONCE),
                }
                for metadata in (labelled(process, ADOPTED), without_job(labelled(process, ALONE)))
            ),
        ],
        "--namespace",
        runs.namespace,
    )
    runs.wait(
        name, "training beside them", lambda status: status["progress"]["step"] >= before["progress"]["step"] + 50
    )
    runs.patch(name, accelerator={"slices": 1})
    after = runs.training(name, attempt=2, step=before["progress"]["step"] + 1)
    assert counts(after) == {"specChanged": 1}, causes(after)
    assert after["progress"]["step"] < 10_000
    assert after["checkpoint"]["step"] < 10_000
    (evicted,) = [pod for pod in runs.pods(name) if pod.startswith(f"{name}-2-")]
    runs.kubectl("delete", "pod", evicted, "--wait=false")
    again = runs.training(name, attempt=2, restart=1)
    assert counts(again, after) == {"podDeleted": 1}
    runs.delete(name)
    left = [f"jobset.jobset.x-k8s.io/{name}-{HIGH_ATTEMPT}", f"pod/{ALONE}"]  # the objects that must stay
    until(
        lambda: runs.names("jobset,pod", name) == left,
        timeout_seconds=60,
        interval_seconds=INTERVAL_SECONDS,
        failure=lambda: str(runs.names("jobset,pod", name)),
    )
    runs.kubectl("delete", f"pod/{ALONE}", f"jobset/{name}-{HIGH_ATTEMPT}", "--wait=false")

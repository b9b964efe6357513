"""The objects of each row of the hardware table, as the operator builds them."""

from __future__ import annotations

import copy
from typing import Any

from tests.operator.hardware_rows import RUNS, built

ROWS = sorted(RUNS)


def jobset_of(row: str) -> dict[str, Any]:
    """The JobSet of a row, without its run."""
    jobset = copy.deepcopy(built(row))
    del jobset["metadata"]["ownerReferences"]
    jobset["metadata"].pop("namespace", None)
    return jobset


def job_of(row: str) -> dict[str, Any]:
    """A Job as the JobSet controller would create it."""
    spec = jobset_of(row)["spec"]["replicatedJobs"][0]["template"]["spec"]
    return {"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "one"}, "spec": spec}


def pod_of(row: str) -> dict[str, Any]:
    """A pod as the Job controller would create it."""
    template = job_of(row)["spec"]["template"]
    template["spec"].pop("priorityClassName", None)  # of another cluster, like the service account
    template["spec"].pop("serviceAccountName", None)
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "one", **template["metadata"]},
        "spec": template["spec"],
    }

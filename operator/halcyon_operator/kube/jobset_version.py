"""Checks whether the cluster's JobSet supports the rules of an attempt. Pure.

Before version 0.10 a JobSet has no ``onJobFailureMessagePatterns``. The API server drops the field, the remaining rules
then match every failed Job, and a trainer that must not be restarted is restarted forever. The schema that the API
server publishes shows whether the field exists; every account may read it."""

from __future__ import annotations

from halcyon_operator.model.untrusted import mapping, text, value_at

OPENAPI = "/openapi/v3/apis/jobset.x-k8s.io/v1alpha2"
FIELD = "onJobFailureMessagePatterns"
INSTALL = "install JobSet v0.10 or later (https://jobset.sigs.k8s.io)"
TOO_OLD = (
    f"the cluster's JobSet does not support failurePolicy.rules.{FIELD}, without which a run that must stop is "
    f"restarted forever; {INSTALL}"
)


def knows_the_rules(openapi: object) -> bool | None:
    """Whether the JobSet of an OpenAPI document has the field; None if the document does not describe JobSets."""
    for schema in mapping(value_at(openapi, "components", "schemas")).values():
        rule = value_at(schema, "properties", "spec", "properties", "failurePolicy", "properties", "rules", "items")
        if fields := mapping(value_at(rule, "properties")):
            return FIELD in fields
    return None


def create_refusal(kind: str, message: str) -> str:
    """Why the API server rejected an object, as one sentence for the user.

    Args:
        kind: Kind of the object.
        message: The API server's message.
    """
    if kind == "JobSet" and "unknown field" in message:
        return (
            f"JobSet was refused, because the cluster's JobSet does not support all of its fields; {INSTALL}: "
            f"{text(message, 500)}"
        )
    return f"{kind} was refused: {message}"

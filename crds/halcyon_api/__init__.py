"""The contract between the operator, the trainer and their users.

Everything that they exchange is defined here once, as plain data: the ``TrainingRun`` resource (`training_run`, with
one module for each section of its spec in `spec` and of its status in `status`), the environment of a trainer pod
(`environment`), the reports of the trainer (`status.progress`), the causes of an end (`ends`), the documents of a
checkpoint root (`checkpoint_documents`) and the names of the objects in the cluster (`names`). The custom resource
definition and its reference are generated from these types (`generate`). The package imports neither JAX nor kopf nor a
Kubernetes client, and importing it imports none of its modules.
"""

"""The whole path, for a person who watches: a training on a real Kubernetes that loses pods and ends as if it had not.

`story` reads top to bottom: cluster, images, object store, operator, a disturbed run, the same run undisturbed, the comparison. What the
demo knows it learns as any user would: from the TrainingRun's status, the pods, and the JSON lines of the trainers' logs. They are
gathered in a `journal` by threads that follow kubectl; everything that is concluded from them is pure (`comparison`, `recovery`).

The cluster tests of the whole path use the same pieces: `install` (images, object store, chart), `watch` (runs, pods, logs), `training`
and `comparison`.
"""

"""`make demo`: a training on a real Kubernetes that loses pods and still gives the same losses as an undisturbed run.

`story` reads top to bottom: cluster, images, object store, operator, a disturbed run, the same run undisturbed, the
comparison. The demo uses only what every user can read: the TrainingRun's status, the pods, and the JSON lines of the
trainers' logs. Threads that follow kubectl collect them in a `observations`; the code that evaluates them is pure
(`comparison`, `recovery`).

The cluster tests of the whole path use the same modules: `install` (images, object store, chart), `watch` (runs, pods,
logs), `training` and `comparison`.
"""

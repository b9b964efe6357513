"""``halcyon serve``: a model behind the HTTP interface of OpenAI.

A request goes through these modules in order: `connections` and `routes` (HTTP), `access` (who may ask, and how much),
`requests` (what the JSON means), `service` and `preparing` (tokens and grammars, in threads), `worker` (the engine's
thread), `batch` (the JSON that comes back). `following` brings newer checkpoints, and `server` starts and ends the
process.

It has four names: a `Request` is what a client asks, a `Sequence` is a prompt and its text, a `Batch` has the sequences
of a request, and an `Output` is what is new of a text.
"""

"""``halcyon serve``: a model behind the HTTP interface of OpenAI.

A request goes through these modules in order: `connections` and `routes` (HTTP), `access` and `body` (who may ask, and how much),
`questions` (what the JSON means), `preparers` and `preparing` (tokens and grammars, in threads), `service` and `worker` (the engine's
thread), `answers` (the JSON that comes back). `following` brings newer checkpoints, and `server` starts and ends the process.
"""

"""The Prometheus metrics of a server. `NAMES` lists them for the guide."""

import time

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest

from halcyon.inference.sequence import Output, Sequence

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)
_TOKENS = (1, 4, 16, 64, 256, 1024, 4096, 16384, 65536)
OUTCOMES = ("completed", "cancelled", "invalid", "unauthorized", "overloaded", "draining", "failed")
"""How requests end. cancelled: the client went away."""
ENDPOINTS = ("chat", "completions", "responses", "embeddings", "transcriptions")


class Metrics:
    """The counters of one server, in a registry of their own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        made = {"namespace": "halcyon_serving", "registry": self.registry}
        self.requests = Counter("requests", "Requests, by how they ended.", ["endpoint", "outcome"], **made)
        self.waiting = Gauge("waiting", "Texts that wait for a slot or for pages.", **made)
        self.running = Gauge("running", "Texts that have a slot.", **made)
        self.slots = Gauge("slots", "Texts that are computed at once, at most.", **made)
        self.pages = Gauge("pages", "Pages of the cache.", **made)
        self.pages_used = Gauge("pages_used", "Pages that texts have.", **made)
        self.first_token = Histogram(
            "time_to_first_token_seconds",
            "From the request to its first token, for each text.",
            buckets=_SECONDS,
            **made,
        )
        self.per_token = Histogram(
            "time_per_output_token_seconds", "Mean time between two tokens, for each text.", buckets=_SECONDS, **made
        )
        self.seconds = Histogram(
            "request_seconds", "From the request to the end of its texts.", ["endpoint"], buckets=_SECONDS, **made
        )
        self.prompt_tokens = Counter("prompt_tokens", "Tokens of prompts.", **made)
        self.reused_tokens = Counter(
            "reused_prompt_tokens", "Tokens of prompts that an earlier request had computed.", **made
        )
        self.generated_tokens = Counter("generated_tokens", "Tokens of texts.", **made)
        self.proposed_tokens = Counter("proposed_tokens", "Tokens that layers for further tokens proposed.", **made)
        self.accepted_tokens = Counter("accepted_tokens", "Proposed tokens that are in texts.", **made)
        self.lengths = Histogram("text_tokens", "Tokens of a text.", buckets=_TOKENS, **made)
        self.engine_failures = Counter("engine_failures", "Times that an engine had to begin again.", **made)
        self.step = Gauge("checkpoint_step", "Step of the checkpoint that new requests get.", **made)
        self.updates = Counter("checkpoint_updates", "Newer checkpoints of --follow, by result.", ["result"], **made)
        for endpoint in ENDPOINTS:
            for outcome in OUTCOMES:
                self.requests.labels(endpoint, outcome)
        for result in ("taken", "failed"):
            self.updates.labels(result)

    def token(self, sequence: Sequence, output: Output) -> None:
        """Count a token of a text."""
        self.generated_tokens.inc()
        if output.generated == 1:
            self.first_token.observe(sequence.first - sequence.began)
            self.prompt_tokens.inc(len(sequence.prompt))
            self.reused_tokens.inc(output.reused)
        if output.is_last:
            self.lengths.observe(output.generated)
            if output.generated > 1:
                self.per_token.observe((time.monotonic() - sequence.first) / (output.generated - 1))

    def exposition(self) -> tuple[bytes, str]:
        """The answer to a scrape, and its content type."""
        return generate_latest(self.registry), CONTENT_TYPE_LATEST


NAMES = tuple(
    (f"{family.name}_total" if family.type == "counter" else family.name, family.type, family.documentation)
    for family in Metrics().registry.collect()
)
"""Name, type and meaning of each metric."""

"""The limits of a server: what one request may ask for, and what all requests together may hold."""

from dataclasses import dataclass, fields


@dataclass(frozen=True)
class Limits:
    """Limits of a server.

    Attributes:
        requests: Texts that are computed or wait; a request with ``n: 4`` counts as four.
        max_tokens: Most tokens of a text. None: as many as fit.
        choices: Texts of one request.
        alternatives: Most likely tokens that a request may ask for with each token.
        body_bytes: Bytes of a request.
        form_bytes: Bytes of a request with a file, or to a model that sees images.
        all_bodies_bytes: Bytes of all requests that clients are sending. Beyond it a request of more than 64 KiB is
            refused.
        header_seconds: Time for a client from its connection, or from the first byte of a further request, to the end
            of the headers.
        body_seconds: Time for a client to send the body of a request.
        stall_seconds: Time for a client to take a part of an answer.
        schema_bytes: Bytes of a JSON schema.
        drain_seconds: Time for the requests in flight after SIGTERM.
        connections: Connections at once; see `halcyon.serving.connections`.
        connections_per_address: Connections of one address.
    """

    requests: int = 64
    max_tokens: int | None = None
    choices: int = 16
    alternatives: int = 20
    body_bytes: int = 1_048_576
    form_bytes: int = 26_214_400
    all_bodies_bytes: int = 67_108_864
    header_seconds: float = 20.0
    body_seconds: float = 30.0
    stall_seconds: float = 60.0
    schema_bytes: int = 65_536
    drain_seconds: float = 30.0
    connections: int = 4096
    connections_per_address: int = 1024

    def __post_init__(self) -> None:
        for limit in fields(self):
            value = getattr(self, limit.name)
            if limit.name not in ("drain_seconds", "max_tokens") and value <= 0:
                raise ValueError(f"{limit.name} is {value}; give a number above 0")
        if self.drain_seconds < 0 or (self.max_tokens is not None and self.max_tokens < 1):
            raise ValueError("drain_seconds must not be negative, and max_tokens must be at least 1")

"""The supervisor beside process 0, as the others see it: accepts their connections, and passes on what they say to the
rendezvous and what it orders to them.
"""

import resource
import secrets
import selectors
import socket
import time
from dataclasses import dataclass
from functools import partial
from typing import Any

from halcyon.host.agent.lineage import Lineage
from halcyon.host.agent.lines import SILENCE_SECONDS, Lines
from halcyon.host.agent.place import Place
from halcyon.host.agent.rendezvous import Go, Orders, Quit, Rendezvous, Stop
from halcyon.host.clock import timestamp


@dataclass(eq=False)
class _Peer:
    """A supervisor that has connected to this one."""

    lines: Lines
    process: int | None = None
    since: int | None = None
    """Number of the first start of its pod; None: there was none yet."""
    heard: float = 0.0


class Leader:
    """The meeting of all supervisors.

    Args:
        place: The place of the pod of process 0.
        selector: Waits for the connections.
    """

    def __init__(self, place: Place, selector: selectors.BaseSelector) -> None:
        self._place, self._selector = place, selector
        self._peers: set[_Peer] = set()
        self._of: dict[int, _Peer] = {}
        """The same by process, of those that have said it."""
        self.meeting = Rendezvous(
            place.processes,
            partial(secrets.token_hex, 4),
            lambda: timestamp(time.time()),
            place.forgives,
            place.leaves_node,
        )
        most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))  # a container may begin with 1,024, one a pod
        family = socket.AF_INET6 if socket.has_dualstack_ipv6() else socket.AF_INET
        server = socket.create_server(
            ("", place.port), family=family, dualstack_ipv6=family == socket.AF_INET6, backlog=4096
        )
        self._selector.register(server, selectors.EVENT_READ, partial(self._accept, server))

    def beat(self) -> None:
        """Say to all that this supervisor is there."""
        for peer in self._peers:
            peer.lines.send(beat=True)

    def lose_silent(self, now: float) -> None:
        """Give up those from whom nothing was heard for too long."""
        for peer in [peer for peer in self._peers if now - peer.heard > SILENCE_SECONDS]:
            self._lose_peer(peer)

    def _accept(self, server: socket.socket) -> None:
        try:
            connection, _ = server.accept()
        except OSError:
            return
        peer = _Peer(Lines(connection), heard=time.monotonic())
        self._peers.add(peer)
        self._selector.register(connection, selectors.EVENT_READ, partial(self._hear_peer, peer))

    def _hear_peer(self, peer: _Peer) -> None:
        documents = peer.lines.receive()
        if documents is None:
            self._lose_peer(peer)
            return
        peer.heard = time.monotonic()
        for document in documents:
            try:
                self._obey(self._heard_from(peer, document))
            except (KeyError, TypeError, ValueError):
                self._lose_peer(peer)
                return

    def _heard_from(self, peer: _Peer, document: dict[str, Any]) -> Orders:
        meeting = self.meeting
        if peer.process is None:
            if not secrets.compare_digest(str(document["token"]).encode(), self._place.token.encode()):
                raise ValueError
            process = int(document["hello"])
            if document["group"] != self._place.group or not 0 <= process < self._place.processes:
                raise ValueError
            since = document["since"]
            if (other := self._of.get(process)) is not None:
                if since is not None and (other.since is None or int(since) < other.since):
                    raise ValueError  # a pod that was replaced has come back, such as after a cut of its network
                self._lose_peer(other)  # of the pod before it
            peer.since = since
            peer.process, self._of[process] = process, peer
            known = document["known"]
            return meeting.joined(process, None if known is None else Lineage.read(known))
        orders: Orders = []
        if document.get("waits"):
            orders += meeting.waits(peer.process)
        if (end := document.get("ended")) is not None:
            orders += meeting.ended(peer.process, end)
        if document.get("done"):
            orders += meeting.done(peer.process)
        if (step := document.get("committed")) is not None and peer.process == 0:
            meeting.has_checkpoint(int(step))
        return orders

    def _lose_peer(self, peer: _Peer) -> None:
        if peer not in self._peers:
            return
        self._peers.remove(peer)
        peer.lines.leave(self._selector)
        if peer.process is not None:
            del self._of[peer.process]
            self._obey(self.meeting.lost(peer.process))

    def _obey(self, orders: Orders) -> None:
        for order in orders:
            match order:
                case Stop():
                    document: dict[str, Any] = {"stop": True}
                case Quit(code):
                    document = {"quit": code}
                case Go(lineage):
                    document = {"go": lineage.document()}
            one = order.process if isinstance(order, Quit) else None
            for peer in [peer for peer in self._of.values() if one in (None, peer.process)]:
                if isinstance(order, Go) and peer.since is None:
                    peer.since = order.lineage.number
                peer.lines.send(**document)

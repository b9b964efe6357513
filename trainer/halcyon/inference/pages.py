"""The pages of an engine: which are free, which a request has, and which hold the beginning of a prompt that later
prompts may share.

Beginnings form a tree. Each node is one chunk of tokens after the chunks of its parent, so the keys and values in its
pages depend on these tokens alone. A shared page is never written: requests share only whole chunks of their prompts,
and write behind them. A node without a request stays until its pages are needed; the node that was used the longest
time ago goes first (PagedAttention, Kwon et al. 2023, and the radix tree of SGLang, Zheng et al. 2024).
"""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(eq=False)
class Prefix:
    """One chunk at the beginning of prompts.

    Attributes:
        parent: The chunk before it. None: the root of the tree, which has no tokens.
        tokens: The bytes of its token ids (int32).
        pages: Its pages.
        users: Requests that have it.
        used: The time of its last use, in uses of the tree.
        children: The chunks after it, by their tokens.
    """

    parent: Prefix | None = None
    tokens: bytes = b""
    pages: tuple[int, ...] = ()
    users: int = 0
    used: int = 0
    children: dict[bytes, Prefix] = field(default_factory=dict[bytes, "Prefix"])


class Pages:
    """The pages of an engine.

    Args:
        count: Pages.
    """

    def __init__(self, count: int) -> None:
        self._roots: dict[bytes, Prefix] = {}
        self._free = list(range(count))
        self._idle: set[Prefix] = set()
        self._uses = 0

    def root(self, salt: bytes = b"") -> Prefix:
        """The beginning of all prompts with a salt; prompts share pages only with those of the same salt."""
        return self._roots.setdefault(salt, Prefix())

    @property
    def free(self) -> int:
        """Pages that no request has."""
        return len(self._free) + sum(len(prefix.pages) for prefix in self._idle)

    def take(self, count: int) -> list[int] | None:
        """Pages for a request; None: there are not enough. Prefixes without a request lose theirs if it must be."""
        if count > self.free:
            return None
        while len(self._free) < count:
            self._forget(min((prefix for prefix in self._idle if not prefix.children), key=lambda prefix: prefix.used))
        return [self._free.pop() for _ in range(count)]

    def give(self, pages: list[int]) -> None:
        """Take back pages of a request."""
        self._free.extend(pages)

    def find(self, parent: Prefix, tokens: bytes) -> Prefix | None:
        """The chunk with these tokens after `parent`, for one more request; None: no request has computed it."""
        prefix = parent.children.get(tokens)
        if prefix is not None:
            prefix.users += 1
            prefix.used = self._next_use()
            self._idle.discard(prefix)
        return prefix

    def keep(self, parent: Prefix, tokens: bytes, pages: list[int]) -> Prefix | None:
        """A new chunk in pages of the request that computed it; None: there is such a chunk already, and the request
        keeps its pages.
        """
        if tokens in parent.children:
            return None
        made = parent.children[tokens] = Prefix(parent, tokens, tuple(pages), 1, self._next_use())
        return made

    def leave(self, prefix: Prefix) -> None:
        """A request that has a chunk ends."""
        prefix.users -= 1
        if not prefix.users:
            self._idle.add(prefix)

    def _forget(self, prefix: Prefix) -> None:
        self._idle.remove(prefix)
        if prefix.parent is not None:
            del prefix.parent.children[prefix.tokens]
        self._free.extend(prefix.pages)

    def _next_use(self) -> int:
        self._uses += 1
        return self._uses

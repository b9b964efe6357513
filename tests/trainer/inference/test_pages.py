"""The pages of an engine: shared beginnings are counted, found, and given up when their pages are needed."""

from __future__ import annotations

import random

from halcyon.inference.pages import Pages, Prefix


def test_a_beginning_stays_until_its_pages_are_needed() -> None:
    pool = Pages(6)
    mine = pool.take(3)
    assert mine is not None
    first = pool.keep(pool.root(), b"one", mine[:2])
    assert first is not None
    assert pool.keep(pool.root(), b"one", [9]) is None
    second = pool.keep(first, b"two", mine[2:])
    assert second is not None
    assert pool.free == 3
    pool.leave(second)
    pool.leave(first)
    assert pool.free == 6
    again = pool.find(pool.root(), b"one")
    assert again is first
    assert (pool.free, pool.find(pool.root(), b"two")) == (4, None)
    taken = pool.take(4)  # the page of the second chunk too
    assert taken is not None
    assert sorted(taken + list(first.pages)) == list(range(6))
    assert pool.find(first, b"two") is None
    assert pool.take(1) is None
    pool.leave(first)
    pool.give(taken)
    assert pool.free == 6


def test_the_least_recently_used_beginning_goes_first() -> None:
    pool = Pages(3)
    for name in (b"a", b"b", b"c"):
        kept = pool.keep(pool.root(), name, pool.take(1) or [])
        assert kept is not None
        pool.leave(kept)
    used = pool.find(pool.root(), b"a")
    assert used is not None
    pool.leave(used)
    assert pool.take(1) is not None
    assert [name for name in (b"a", b"b", b"c") if name in pool.root().children] == [b"a", b"c"]


def test_no_page_is_lost_or_has_two_owners_in_random_use() -> None:
    noise, pool = random.Random(5), Pages(24)
    held: list[tuple[list[Prefix], list[int]]] = []
    for _ in range(3000):
        if held and noise.random() < 0.45:
            chain, pages = held.pop(noise.randrange(len(held)))
            for prefix in reversed(chain):
                pool.leave(prefix)
            pool.give(pages)
        else:
            chain, at = list[Prefix](), pool.root()
            while len(chain) < 4 and (found := pool.find(at, bytes([noise.randrange(3)]))) is not None:
                chain.append(found)
                at = found
            pages = pool.take(noise.randrange(1, 6))
            if pages is None:
                for prefix in reversed(chain):
                    pool.leave(prefix)
                continue
            made = pool.keep(at, bytes([noise.randrange(3)]), pages[:1])
            held.append(([*chain, made], pages[1:]) if made is not None else (chain, pages))
        owned = [page for _, pages in held for page in pages]
        shared = {id(prefix): prefix.pages for chain, _ in held for prefix in chain}
        present = owned + [page for pages in shared.values() for page in pages]
        assert len(present) == len(set(present))
        assert pool.free == 24 - len(present)

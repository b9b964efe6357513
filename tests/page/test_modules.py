"""The modules of the page without elements, in a real Chromium: events, repetition, conversations, storage, settings,
Markdown.
"""

from __future__ import annotations

import random
from typing import Any

import pytest
from playwright.sync_api import Page

pytestmark = [pytest.mark.slow, pytest.mark.variant, pytest.mark.xdist_group("chat-page")]


def call(page: Page, module: str, code: str, argument: object = None) -> Any:
    """Run the body of a function with the module's exports as `m` and the argument as `x`."""
    return page.evaluate(f"async (x) => {{ const m = await import('/assets/{module}.js'); {code} }}", argument)


def pieces_of(text: str, seed: int) -> list[str]:
    """The text cut at random places; some pieces are empty."""
    rng = random.Random(seed)
    cuts = sorted(rng.randrange(len(text) + 1) for _ in range(rng.randrange(len(text))))
    return [text[start:end] for start, end in zip([0, *cuts], [*cuts, len(text)], strict=True)]


FEED = "const p = new m.EventParser(); return x.flatMap((piece) => p.feed(piece));"


@pytest.mark.parametrize(
    ("stream", "events"),
    [
        ("data: a\n\ndata: b\n\n", ["a", "b"]),
        ('\ufeffdata:a\r\n\r\ndata: {"é": 1}\r\rdata\n\n', ["a", '{"é": 1}', ""]),
        (": comment\n\nevent: x\nid: 7\ndata: first\ndata:  second\nretry: 5\n\n", ["first\n second"]),
        ("data: a\n\n\n\n\ndata: not complete\n", ["a"]),
        ("datax: no\ndata : no\n\ndata: yes: colon\n\n", ["yes: colon"]),
    ],
    ids=["plain", "line-ends", "fields", "incomplete", "names"],
)
def test_events_are_the_same_however_the_stream_is_cut(page: Page, stream: str, events: list[str]) -> None:
    cut = [[stream], list(stream), *(pieces_of(stream, seed) for seed in range(40))]
    found = page.evaluate(
        f"async (all) => {{ const m = await import('/assets/sse.js'); return all.map((x) => {{ {FEED} }}); }}",
        cut,
    )
    assert found == [events] * len(cut)


def test_an_event_without_an_end_is_an_error(page: Page) -> None:
    endless = (
        "const p = new m.EventParser(); try { for (let n = 0; n < 20; n += 1) p.feed(x); } catch (e) { return "
        "e.message; }"
    )
    assert "too long" in call(page, "sse", endless, "data: " + "x" * 100_000)
    assert "too long" in call(page, "sse", endless, "data: x" * 10_000 + "\n" + "data: " + "x" * 100_000 + "\n")


def test_the_time_of_the_next_try(page: Page) -> None:
    now = 1_700_000_000_000  # 2023-11-14T22:13:20Z
    headers = [
        "7",
        " 0 ",
        "Tue, 14 Nov 2023 22:13:50 GMT",
        "Tue, 14 Nov 2023 22:00:00 GMT",
        "soon",
        "-5",
        "1.5",
        "",
        None,
    ]
    found = call(page, "retry", f"return x.map((header) => m.retryAfter(header, {now}));", headers)
    assert found == [7, 0, 30, 0, None, None, None, None, None]
    errors = [
        [429, 7, 1],
        [429, 0, 1],
        [429, None, 1],
        [429, None, 4],
        [429, 7, 5],
        [429, 121, 1],
        [503, 3, 1],
        [503, None, 1],
        [500, 3, 1],
    ]
    waits = call(
        page,
        "retry",
        "return x.map(([status, retryAfter, tried]) => m.waitBefore({status, retryAfter}, tried));",
        errors,
    )
    assert waits == [7, 1, 1, 8, None, None, 3, None, None]


def test_changes_of_a_conversation(page: Page) -> None:
    code = """
        const empty = m.create("id", 1);
        const asked = m.add(empty, {role: "user", content: "  First line of it\\nsecond"}, 2);
        const failed = m.add(asked, {role: "assistant", content: "", finish: "error"}, 3);
        const again = m.add(failed, {role: "user", content: "more"}, 4);
        const stopped = m.add(m.add(again, {role: "assistant", content: "", finish: "stopped"}, 4), {role: "user", content: "last"}, 4);
        return {
            titles: [empty.title, asked.title, m.before(again, 0, 5).title, m.titleOf("word ".repeat(30)), m.titleOf("x".repeat(80))],
            sent: [failed, again, stopped].map((one) => m.requestMessages(one, "Be brief.")),
            asked: m.requestMessages(asked, ""),
            cut: m.before(again, 1, 5),
            unchanged: empty.messages.length,
        };"""
    found = call(page, "conversations", code)
    assert found["titles"] == ["", "First line of it", "", "word " * 11 + "word…", "x" * 60 + "…"]
    # A question that was refused is not sent again; neighbours of the same role are joined.
    system = {"role": "system", "content": "Be brief."}
    assert found["sent"] == [
        [system], [system, {"role": "user", "content": "more"}], [system, {"role": "user", "content": "more\n\nlast"}]
    ]  # fmt: skip
    assert found["asked"] == [{"role": "user", "content": "  First line of it\nsecond"}]
    assert (len(found["cut"]["messages"]), found["cut"]["updated"], found["unchanged"]) == (1, 5, 0)


@pytest.mark.parametrize("seed", range(3))
def test_the_oldest_conversations_leave_and_no_more_than_needed(page: Page, seed: int) -> None:
    rng = random.Random(seed)
    cases = []
    for _ in range(200):
        sizes = [
            {"id": f"c{n}", "updated": rng.randrange(1000), "size": rng.randrange(50)} for n in range(rng.randrange(8))
        ]
        cases.append([sizes, rng.randrange(110), {"count": rng.randrange(1, 6), "size": 100}])
    found = call(
        page, "conversations", "return x.map(([others, size, limits]) => m.toRemove(others, size, limits));", cases
    )
    for (others, size, limits), removed in zip(cases, found, strict=True):
        if size > limits["size"]:
            assert removed is None
            continue
        oldest = sorted(others, key=lambda one: one["updated"])
        assert removed == [one["id"] for one in oldest[: len(removed)]]

        def fits(left: list[dict[str, Any]], size: int = size, limits: dict[str, int] = limits) -> bool:
            return len(left) + 1 <= limits["count"] and size + sum(one["size"] for one in left) <= limits["size"]

        assert fits(oldest[len(removed) :])
        assert not removed or not fits(oldest[len(removed) - 1 :])


def test_a_storage_that_refuses_keeps_the_newest_that_fit(page: Page) -> None:
    """The browser may give less than the page's own limit. Without any room, the conversation stays in memory."""
    code = """
        const { MemoryStorage } = await import("/assets/storage.js");
        class Small extends MemoryStorage {
            setItem(name, value) {
                if (this.length >= x && this.getItem(name) === null) throw new DOMException("full", "QuotaExceededError");
                super.setItem(name, value);
            }
        }
        const library = new m.Library(new Small());
        const results = ["a", "b", "c"].map((id, n) => library.put({id, title: id, created: n, updated: n, messages: []}));
        return {
            kept: results.map((one) => one.kept),
            removed: results.map((one) => one.removed.map((c) => c.id)),
            all: library.all().map((one) => one.id),
        };"""
    assert call(page, "library", code, 2) == {"kept": [True, True, True], "removed": [[], [], ["a"]], "all": ["c", "b"]}
    assert call(page, "library", code, 0) == {"kept": [False] * 3, "removed": [[], ["a"], ["b"]], "all": ["c"]}


def test_settings_that_are_not_valid_get_their_defaults(page: Page) -> None:
    numbers = {"temperature": 0, "topP": 1, "topK": 40, "minP": 0, "presencePenalty": -2, "frequencyPenalty": 2}
    given = [
        numbers | {"repetitionPenalty": 1, "maxTokens": 5, "system": "s", "model": "m", "theme": "dark"},
        {
            "topK": 0,
            "minP": -0.1,
            "presencePenalty": -3,
            "frequencyPenalty": 3,
            "repetitionPenalty": 0,
            "temperature": 2.1,
            "topP": 0,
            "maxTokens": 1.5,
            "system": 5,
            "model": None,
            "theme": "red",
            "key": "secret",
        },
        {"temperature": "1", "topP": -1, "maxTokens": 0, "topK": 1.5},
        None,
    ]
    found = call(page, "settings", "return {read: x.map(m.readSettings), defaults: m.DEFAULTS};", given)
    assert found["read"] == [given[0], *[found["defaults"]] * 3]
    assert call(page, "settings", "return x.map((one) => m.requestFields(m.readSettings(one)));", given) == [
        {
            "temperature": 0,
            "top_p": 1,
            "top_k": 40,
            "min_p": 0,
            "presence_penalty": -2,
            "frequency_penalty": 2,
            "repetition_penalty": 1,
            "max_tokens": 5,
        },
        *[{}] * 3,
    ]


def test_an_answer_without_an_end_is_stopped(page: Page) -> None:
    code = """
        const message = {role: "assistant", content: ""};
        let closed = false;
        const endless = async function* () {
            try { for (;;) yield {text: "x".repeat(100_000), ids: []}; } finally { closed = true; }
        };
        const error = await new m.Answer({}, message).run(endless, null, () => {});
        return [error.message, message.finish, message.content.length, closed];"""
    message, finish, length, closed = call(page, "answering", code)
    assert ("too long" in message, finish, length, closed) == (True, "error", 1_100_000, True)


TEXTS = [
    """# Title

First *paragraph*
with a line break.

- one
- two

  more of two

1. first
2. second

```js
let a = 1;


let b;
```
End""",
    """Setext
===

para

    indented code

> quote
lazy

| a | b |
|--:|:-:|
| 1 | 2 |

after
***
last [link][x].

[x]: https://example.org
""",
    """[early][d] text

more\r
\r
[d]: https://example.org/d\r
\r
end https://example.org/bare and ~~gone~~

```
never closed

# no heading""",
    """1. a
   - b

     c

   d
2. e



x
-
y

<div>

html

</div>
\\*not\\* &amp; &lt;
""",
]


@pytest.mark.parametrize("text", TEXTS, ids=["blocks", "quotes", "links", "lists"])
def test_a_text_that_comes_in_pieces_looks_like_the_whole_text(page: Page, text: str) -> None:
    code = """
        const { showMarkdown } = await import("/assets/streaming.js");
        const whole = document.createElement("div");
        showMarkdown(whole, x.text);
        return {
            whole: whole.innerHTML,
            cut: x.cuts.map((pieces) => {
                const parent = document.createElement("div");
                const markdown = new m.StreamingMarkdown(parent);
                let text = "";
                for (const piece of pieces) markdown.update((text += piece));
                markdown.finish(text);
                return parent.innerHTML;
            }),
        };"""
    found = call(
        page, "streaming", code, {"text": text, "cuts": [list(text), *(pieces_of(text, seed) for seed in range(6))]}
    )
    assert [cut for cut in found["cut"] if cut != found["whole"]] == []
    assert len(found["whole"]) > len(text)


def test_the_work_for_a_text_is_proportional_to_its_length(page: Page) -> None:
    code = """
        const work = (paragraphs) => {
            const markdown = new m.StreamingMarkdown(document.createElement("div"));
            let text = "";
            for (let n = 0; n < paragraphs; n += 1) markdown.update((text += "A *short* paragraph.\\n\\n"));
            markdown.finish(text);
            return markdown.parsed / text.length;
        };
        return [work(20), work(200)];"""
    few, many = call(page, "streaming", code)
    assert many < few * 1.5
    assert many < 10

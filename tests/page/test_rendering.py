"""What answers look like: code in colours, formulas, headings, tables; also while they come, and from a hostile model."""

from __future__ import annotations

import pytest
from playwright.sync_api import Page, expect

from tests.page.acts import answered, answers, ask, assert_cheap
from tests.page.server import HOLD, ChatServer, Text

pytestmark = [pytest.mark.slow, pytest.mark.variant, pytest.mark.xdist_group("chat-page")]

FORMULAS = r"""
The loss is $-\log p(x)$, its mean \(\frac{1}{n}\sum_i \ell_i\). It costs $5 and $6, or \$7.

$$
a
- b = \sqrt{c}
$$

- in a list: \[ x^2 \]

\[
\begin{pmatrix} 1 & 2 \\ 3 & 4 \end{pmatrix}
\]

`$x$` and an unknown \(\nonsense{x}\).
"""


def test_formulas_are_drawn_and_prices_are_not(page: Page, server: ChatServer) -> None:
    server.script(Text([FORMULAS]))
    ask(page, "Formulas")
    answer = answered(page, "in a list")
    expect(answer.locator("math")).to_have_count(5)
    expect(answer.locator("math[display=block]")).to_have_count(2)
    expect(answer.locator("mtable mtd")).to_have_count(4)
    expect(answer).to_contain_text("It costs $5 and $6, or $7.")
    expect(answer.locator("code")).to_have_text(["$x$", r"\nonsense{x}"])
    width = page.locator("math mfrac").bounding_box()
    assert width
    assert width["height"] > 1.5 * width["width"], "the browser draws the fraction as a fraction"


DRAW = """async (text) => {
    const m = await import('/assets/markdown.js');
    const box = document.createElement("div");
    document.body.append(box);
    box.append(m.render(m.parse(text, {}).tokens, true));
    const found = box.querySelector("math");
    const drawn = found && { width: found.getBoundingClientRect().width, height: found.getBoundingClientRect().height };
    const written = box.textContent;
    box.remove();
    return [drawn, written];
}"""
"""Draws a text: the size of its first formula, or null, and what is written."""


@pytest.mark.parametrize("step", [1, 7, 40])
def test_formulas_that_come_in_pieces_look_like_the_whole_text(page: Page, step: int) -> None:
    html = page.evaluate(
        """async ([text, step]) => {
            const m = await import('/assets/streaming.js');
            const [whole, parts] = [document.createElement("div"), document.createElement("div")];
            m.showMarkdown(whole, text);
            const growing = new m.StreamingMarkdown(parts);
            for (let end = 0; end <= text.length; end += step) growing.update(text.slice(0, end));
            growing.finish(text);
            return [whole.innerHTML, parts.innerHTML];
        }""",
        [FORMULAS + "\n```python\nfor x in range(3): print('x')  # a comment\n```\n", step],
    )
    assert html[0] == html[1]


@pytest.mark.parametrize(
    "text",
    [r"\(" * 30_000, "$" * 60_000, r"$a\$" * 15_000, "\\[\n" * 20_000, "$$\na\n" * 15_000, r"\(a\\)" * 12_000],
    ids=["open", "dollars", "escaped", "blocks", "unclosed", "ends"],
)
def test_a_hostile_formula_costs_no_more_than_its_length(page: Page, text: str) -> None:
    assert_cheap(page, text)


TOO_LARGE = {
    "macros": r"\def\a{\b\b}\def\b{\c\c}\def\c{\d\d}\def\d{\e\e}\def\e{\f\f}\def\f{\g\g}\def\g{\h\h}\def\h{x}\a",
    "endless": r"\def\a{\a x}\a",
    "nested": r"\sqrt{" * 90 + "x" + "}" * 90,
    "fractions": r"\frac{" * 70 + "x" + "}{y}" * 70,
    "long": "x" * 4001,
    "copies": r"\def\a{" + "x" * 900 + "}" + r"\a" * 90,
}
"""Formulas that stay their text."""


@pytest.mark.parametrize("name", TOO_LARGE)
def test_a_formula_that_is_too_large_stays_its_text(page: Page, name: str) -> None:
    drawn, text = page.evaluate(DRAW, "$$\n" + TOO_LARGE[name] + "\n$$")
    assert not drawn
    assert TOO_LARGE[name] in text


@pytest.mark.parametrize(
    "formula",
    [
        r"\rule{99999em}{99999em}",
        r"\hspace{999999999pt}x",
        r"\kern99999em x",
        r"\raisebox{9999em}{x}",
        r"a\above9999em b",
        r"\Huge{" * 30 + "x" + "}" * 30,
        r"\begin{matrix}a\\[9999em]b\end{matrix}",
    ],
)
def test_no_formula_takes_more_room_than_a_screen(page: Page, formula: str) -> None:
    drawn, _ = page.evaluate(DRAW, f"\\({formula}\\)")
    assert drawn
    assert drawn["width"] <= 1000
    assert drawn["height"] <= 1000


def test_only_so_many_formulas_of_a_text_are_drawn(page: Page) -> None:
    count = page.evaluate(
        """async (text) => {
            const m = await import('/assets/markdown.js');
            return m.render(m.parse(text, {}).tokens, true).querySelectorAll("math").length;
        }""",
        "$x$ " * 3000,
    )
    assert 0 < count <= 500


def test_a_formula_cannot_take_the_place_of_an_element_of_the_page(page: Page, server: ChatServer) -> None:
    server.script(
        Text(
            [
                r"$$\begin{align} a \label{message} \end{align}$$ \(\ref{message} \href{javascript:hacked=1}{x}"
                r"\style{background:url(https://attacker.example/)}{y} \includegraphics{https://attacker.example/z.png}\)"
            ]
        )
    )
    ask(page, "Formulas")
    answer = answered(page, "a")
    for forbidden in ("[id]", "[href]", "a", "img", "mglyph"):
        expect(answer.locator(f".content {forbidden}")).to_have_count(0)
    expect(page.locator("#message")).to_have_count(1)


def test_code_gets_colours_when_it_is_complete(page: Page, server: ChatServer) -> None:
    code = "def double(x: int) -> str:\n    return f'<b>{2 * x}</b>'  # & more\n"
    server.script(Text([f"```python\n{code}", HOLD, "```\n\n```unknown\nplain < text\n```\n"]))
    ask(page, "Code")
    expect(answers(page).locator("pre code")).to_have_text(code)
    expect(answers(page).locator("pre span")).to_have_count(0)
    server.release()
    answer = answered(page, "plain < text")
    expect(answer.locator("pre code").first).to_have_text(code)
    expect(answer.locator(".hljs-keyword")).to_have_text(["def", "return"])
    expect(answer.locator("pre code").nth(1).locator("span")).to_have_count(0)
    colours = answer.locator(".hljs-keyword, .hljs-comment").evaluate_all(
        "all => all.map((one) => getComputedStyle(one).color)"
    )
    assert len(set(colours)) == 2


def test_no_heading_is_smaller_than_the_text_and_no_word_of_a_table_is_cut(page: Page, server: ChatServer) -> None:
    heads = "\n\n".join(f"{'#' * level} Level {level}" for level in range(1, 7))
    cells = "| checkpoint | throughput |\n|---|---|\n| verification | incomprehensibility |\n"
    server.script(Text([f"{heads}\n\nText.\n\n{cells}"]))
    page.set_viewport_size({"width": 320, "height": 700})
    ask(page, "Headings")
    answer = answered(page, "Level 6")
    sizes = answer.locator(".content :is(h3, h4, h5, h6)").evaluate_all(
        "all => all.map((one) => parseFloat(getComputedStyle(one).fontSize))"
    )
    text = answer.locator("p").last.evaluate("one => parseFloat(getComputedStyle(one).fontSize)")
    assert len(sizes) == 6
    assert min(sizes) >= text
    assert sizes == sorted(sizes, reverse=True)
    lines = answer.locator("td, th").evaluate_all("all => all.map((one) => one.getClientRects()[0].height)")
    assert max(lines) < 2 * min(lines), "each word stands on one line"


def test_an_answer_says_its_tokens_and_its_rate(page: Page, server: ChatServer) -> None:
    server.script(
        Text(["One ", HOLD, "two."], tokens=3),
        Text(["Nine tokens", " at once."], tokens=9),
        Text(["Cut"], finish="length", tokens=1),
        Text(["Bare."]),
    )
    ask(page, "count")
    expect(answers(page).first).to_contain_text("One")
    page.wait_for_timeout(250)  # a rate needs a time
    server.release()
    answer = answered(page, "two.")
    expect(answer.locator(".figures")).to_contain_text("3 tokens, ")
    expect(answer.locator(".figures")).to_contain_text("tokens/s")
    ask(page, "at once")
    expect(answered(page, "at once.", 2).locator(".figures")).to_have_text("9 tokens")
    ask(page, "again")
    expect(answered(page, "The answer reached the limit of tokens.", 3).locator(".figures")).to_have_text("1 token")
    ask(page, "and again")
    expect(answered(page, "Bare.", 4).locator(".figures")).to_have_text("")
    page.reload()
    expect(answers(page).first.locator(".figures")).to_contain_text("3 tokens, ")

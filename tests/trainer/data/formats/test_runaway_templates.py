"""A template that would need unbounded time or memory is a sentence, when it is loaded and when it prints."""

from __future__ import annotations

import pytest

from halcyon.data.formats import build_formatter
from halcyon.data.formats.template import ChatTemplate, day
from halcyon.host.errors import BadConfiguration
from halcyon.host.limits import apart
from halcyon.host.limits.apart import OverLimit
from halcyon.tokenizer import load
from halcyon.tokenizer.definition import BYTE
from halcyon_api.spec.sources import ChatFormatSpec, FormatSpec

_WHERE = "spec.data.sources[chats].format.chat.template"
_LISTS = "{% set n = namespace(x=[1]) %}{% for i in range(60) %}{% set n.x = [n.x, n.x] %}{% endfor %}"
_LOOPS = "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}"


@pytest.fixture(autouse=True)
def short_budget(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(apart, "SECONDS", 0.1)


@pytest.mark.parametrize(
    "template",
    ["{{ 'a' * 10**10 }}", "{{ 'a'.center(10**10) }}", "{{ 10 ** (10 ** 10) }}", _LOOPS, f"{_LISTS}{{{{ n.x }}}}"],
    ids=["product", "method", "power", "loops", "lists"],
)
def test_a_template_over_its_budget_is_a_sentence(template: str) -> None:
    tokenizer = load(BYTE)
    with pytest.raises(OverLimit, match=r"^template: it needs more than"):
        ChatTemplate(template, tokenizer, "template", day(None)).render([{"role": "user", "content": "?"}])


@pytest.mark.parametrize("template", [_LOOPS, "{{ 'a' * 10**10 }}"], ids=["loops", "product"])
def test_a_formatter_of_such_a_template_is_not_made(template: str) -> None:
    """The tries of a template at its loading take any error for an answer, but not this one."""
    with pytest.raises(OverLimit, match=_WHERE.replace("[", r"\[").replace("]", r"\]")):
        build_formatter(
            FormatSpec(chat=ChatFormatSpec(template=template)), load(BYTE), where="spec.data.sources[chats].format"
        )


@pytest.mark.parametrize(
    "template", ["{% if 1 %}" * 3000, "{% for i in [1] %}" * 30 + "{% endfor %}" * 30, "{{ " + "-" * 10**5 + "1 }}"]
)
def test_a_template_that_is_nested_too_deeply_is_a_sentence(template: str) -> None:
    with pytest.raises(BadConfiguration, match=r"^template: .*; fix the template$"):
        ChatTemplate(template, load(BYTE), "template", day(None))

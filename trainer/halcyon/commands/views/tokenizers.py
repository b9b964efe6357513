# ruff: noqa: RUF001 - characters of many scripts
"""Compares the compression of tokenizers: bytes of text per token, on several kinds of text.

Bytes per token differ most between scripts, code and prose. The prose of the samples is from the Universal Declaration
of Human Rights (United Nations, 1948), articles 1 to 3, which has the same meaning in every language. The code,
mathematics and markup were written for this module.
"""

from collections.abc import Mapping

import numpy as np

from halcyon.commands.views.tables import FittedTable
from halcyon.tokenizer.protocol import Tokenizer


def compression(tokenizer: Tokenizer, text: str) -> tuple[float, bool]:
    """Bytes of text per token, of which more is better (NaN without tokens), and whether decoding returns the text."""
    ids = tokenizer.encode(text)
    return len(text.encode()) / ids.size if ids.size else float("nan"), tokenizer.decode(ids) == text


def compression_table(tokenizers: Mapping[str, Tokenizer], texts: Mapping[str, str]) -> FittedTable:
    """Bytes per token of each tokenizer on each text.

    The best value of a row is bold; ``~`` marks text that decoding does not return.
    """
    table = FittedTable(
        "text",
        numbers=("bytes", *(f"{name}\n{tokenizer.vocab_size:,} tokens" for name, tokenizer in tokenizers.items())),
        drops=("bytes",),
        title="Bytes of text per token (more is better)",
        caption="~ text that decoding does not give back exactly",
    )
    for kind, text in texts.items():
        results = [compression(tokenizer, text) for tokenizer in tokenizers.values()]
        best = max((ratio for ratio, _ in results), default=0.0)
        cells: list[str] = []
        for ratio, is_lossless in results:
            words = f"{ratio:.2f}{'' if is_lossless else '~'}"
            cells.append(f"[bold]{words}[/bold]" if len(results) > 1 and np.isclose(ratio, best) else words)
        table.add_row(kind, f"{len(text.encode()):,}", *cells)
    return table


_ENGLISH = """All human beings are born free and equal in dignity and rights. They are endowed with reason and conscience and should act \
towards one another in a spirit of brotherhood.
Everyone is entitled to all the rights and freedoms set forth in this Declaration, without distinction of any kind, such as race, colour, \
sex, language, religion, political or other opinion, national or social origin, property, birth or other status.
Everyone has the right to life, liberty and security of person.
"""

_CODE = '''def quicksort(items: list[int], low: int = 0, high: int | None = None) -> None:
    """Sort in place; O(n log n) on average."""
    high = len(items) - 1 if high is None else high
    while low < high:
        pivot, left, right = items[(low + high) // 2], low, high
        while left <= right:
            while items[left] < pivot:
                left += 1
            while items[right] > pivot:
                right -= 1
            if left <= right:
                items[left], items[right] = items[right], items[left]
                left, right = left + 1, right - 1
        quicksort(items, low, right)
        low = left


static int parse_header(const char *buffer, size_t length, struct header *out) {
    if (buffer == NULL || length < sizeof(*out)) { return -EINVAL; }
    memcpy(out, buffer, sizeof(*out));
    for (int i = 0; i < 16; ++i) { out->checksum ^= (uint32_t)buffer[i] << (8 * (i % 4)); }
    return out->version == 0x0102 ? 0 : -EPROTO;
}
'''

_MATHS = r"""Let $f\colon \mathbb{R}^n \to \mathbb{R}$ be convex with $\nabla f$ being $L$-Lipschitz. Then for $\eta = 1/L$
\begin{equation}
  f(x_{k+1}) \leq f(x_k) - \frac{1}{2L} \lVert \nabla f(x_k) \rVert_2^2, \qquad x_{k+1} = x_k - \eta \nabla f(x_k),
\end{equation}
so that $\sum_{k=0}^{K-1} \lVert \nabla f(x_k) \rVert^2 \leq 2L\,(f(x_0) - f^\star)$. With 17 + 25 = 42 and 3.14159 × 2.71828 ≈ 8.53973,
∀ε > 0 ∃δ > 0: |x − y| < δ ⇒ |f(x) − f(y)| < ε; ∫₀^∞ e^{−x²} dx = √π / 2.
"""

_MARKUP = """<article id="post-2048" class="entry"><h2>Results &amp; discussion</h2><p>See <a href="https://example.org/a?b=1&amp;c=2">here</a>.</p></article>
{"id": "c0ffee-0042", "created": "2026-11-20T09:30:00Z", "scores": [0.125, 0.5, 12], "tags": ["data", "test"], "parent": null, "ok": true}
| model | parameters | loss |
|-------|-----------:|-----:|
| small |       124M | 3.28 |
"""

_GERMAN = """Alle Menschen sind frei und gleich an Würde und Rechten geboren. Sie sind mit Vernunft und Gewissen begabt und sollen \
einander im Geiste der Brüderlichkeit begegnen.
Jeder hat das Recht auf Leben, Freiheit und Sicherheit der Person.
"""

_RUSSIAN = """Все люди рождаются свободными и равными в своем достоинстве и правах. Они наделены разумом и совестью и должны поступать \
в отношении друг друга в духе братства.
Каждый человек имеет право на жизнь, на свободу и на личную неприкосновенность.
"""

_KOREAN = """모든 인간은 태어날 때부터 자유로우며 그 존엄과 권리에 있어 동등하다. 인간은 천부적으로 이성과 양심을 부여받았으며 \
서로 형제애의 정신으로 행동하여야 한다.
모든 사람은 생명과 신체의 자유와 안전에 대한 권리를 가진다.
"""

_CHINESE = """人人生而自由，在尊严和权利上一律平等。他们赋有理性和良心，并应以兄弟关系的精神相对待。
人人有权享有生命、自由和人身安全。
"""

_JAPANESE = """すべての人間は、生まれながらにして自由であり、かつ、尊厳と権利とについて平等である。人間は、理性と良心とを授けられており、\
互いに同胞の精神をもって行動しなければならない。
すべて人は、生命、自由及び身体の安全に対する権利を有する。
"""

_ARABIC = """يولد جميع الناس أحرارًا متساوين في الكرامة والحقوق. وقد وهبوا عقلًا وضميرًا وعليهم أن يعامل بعضهم بعضًا بروح الإخاء.
لكل فرد الحق في الحياة والحرية وسلامة شخصه.
"""

_HINDI = """सभी मनुष्यों को गौरव और अधिकारों के मामले में जन्मजात स्वतन्त्रता और समानता प्राप्त है। उन्हें बुद्धि और अन्तरात्मा की देन प्राप्त है \
और परस्पर उन्हें भाईचारे के भाव से बर्ताव करना चाहिए।
"""

SAMPLES = {
    "English": _ENGLISH,
    "code": _CODE,
    "maths": _MATHS,
    "markup": _MARKUP,
    "German": _GERMAN,
    "Russian": _RUSSIAN,
    "Korean": _KOREAN,
    "Chinese": _CHINESE,
    "Japanese": _JAPANESE,
    "Arabic": _ARABIC,
    "Hindi": _HINDI,
}
"""Text by kind."""

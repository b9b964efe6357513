# ruff: noqa: RUF001 - the texts must contain ambiguous characters
"""Texts on which a fast encoder must agree with the reference before it is used for a vocabulary.

Encoders disagree on rare cases: contractions in capitals, runs of white space before a word or at the end, line ends,
digits of other scripts, combining marks, characters newer than a library's Unicode tables, bytes that no merge covers,
text that spells a special token. Each line is encoded alone, and all lines together.
"""

from collections.abc import Iterable

_LINES = (
    "",
    " ",
    "   ",
    "\n",
    "\r\n\r\n  \t\n x",
    "\t\tif x == 1:\n\t\t    return   y  \n\n\n    z\n ",
    "Hello world! I'm sure THEY'LL say WE'VE done it, didn't you'D? 's 'S 'ſ 'K ’s ''s' '",
    'The quick brown fox; jumps over (the) lazy dog -- "twice". A/B, C&D: e@f.g #1 $2.50 50% ^_^ ~/x',
    "1 12 123 1234 12345 123456 1234567 3.14159 1e-9 0x7fff 1,000,000 2026-11-20T11:50:28Z v1.2.3 a1b22c333d4444",
    "x²+y³=½ Ⅻ ٣٤٥٦ १२३४ ๑๒๓๔ ⁴⁵⁶⁷ ①②③④ ㊿ 𝟘𝟙𝟚𝟛 一二三 1２3４",
    "naïve café Ångström A\u030a e\u0301\u0301 \u0301x \u0300\u0300 ﬁ ǅ ʼn İstanbul ıI ß ẞ Σίσυφος ς",
    "Привет, мир! Съешь же ещё этих мягких французских булок. Ελληνικά. שלום עולם. مرحبا بالعالم، كيف الحال؟",
    "नमस्ते दुनिया क्षत्रिय। ภาษาไทยไม่มีช่องว่าง မြန်မာ ខ្មែរ አማርኛ தமிழ் తెలుగు",
    "안녕하세요 세계! 한국어 토큰화 시험입니다. ㅋㅋㅋ 한글 자모: \u1112\u1161\u11ab",
    "今日は世界。これはテストです！「引用」、ｶﾀｶﾅ ー 々〆 你好，世界。中文没有空格，不是吗？臺灣",
    "😀😁 👩‍👩‍👧‍👦 👍🏽 🇰🇷🇩🇪 ☕️ ✈︎ 🫨 🫩 🪾 🛜 \U0001f979\U0001fabc\U0001fac8",
    "\u00a0nbsp \u2003em \u3000ideographic \u200bzero\u200d\ufeff \u2028line\u2029para \u0085nel \x0b\x0c\x1c\x1f "
    "\x00\x01\x7f\x80",
    "\ue000\uf8ff\U000f0000\U0010ffff \ufffd\ufffe\uffff \U0001e900\U00010400\U0001d400 \u0378\u0530 \ua7cb\ua7cc "
    "\U00011380\U00016d40",
    "def f(x: int) -> str:\n    '''doc'''\n    return f\"{x!r:>{10}}\"  # comment\n\n\nclass A(B, metaclass=C):\n    "
    "pass\n",
    "\\frac{\\partial^2 u}{\\partial x^2} = \\sum_{i=0}^{\\infty} a_i x^i \\leq \\int_0^1 f(t)\\,dt ∀ε>0 ∃δ: |x−y|<δ ⇒ "
    "‖f‖≤∞",
    '<div class="a">\n  <p>&nbsp;text</p>\n</div>\n{"k": [1, 2.0, null, true], "é": '
    '"\\u00e9"}\nhttps://example.org/a_b?c=d&e=%20f#g',
    "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa AAAAAAAA -------------- ........ ======== !!!!!! \n\n\n\n\n        \n",
    "camelCase snake_case SCREAMING_CASE kebab-case HTTPServer2Go iPhone15Pro x86_64 McDonald's O'Neill rock'n'roll",
    "ordinary white space  two   three    four     \tfive \n six\r\nseven\rnine \u00a0\u00a0 ten",
    "trailing spaces   ",
    "trailing line ends\n\n\n",
    "trailing mixture \n \n  ",
)

PROSE = (
    "It is a truth universally acknowledged, that a single encoder in possession of a good speed must be in want of a "
    "reference.\n"
    "However little known the feelings or views of such an encoder may be on its first entering a corpus (in 2026, "
    "say), this truth is\n"
    "so well fixed in the minds of the surrounding tests, that it's considered the rightful property of some one or "
    "other of them.\n\n"
    "    x = 12345.678 + y[0]; return x\n"
    "그 사실은 누구나 알고 있다. 世界中の誰もが認める真理である。 Все знают 3 правила: раз, два и три.\n"
) * 4
"""Ordinary text, for testing cuts."""


def probe_texts(special: Iterable[str]) -> list[str]:
    """The texts on which encoders must agree, including texts that spell the special tokens."""
    spelled = [f"{name} before {name}after{name}\n {name}" for name in special][:64]
    return [*_LINES, *spelled, PROSE, "".join(_LINES), " ".join(reversed(_LINES))]

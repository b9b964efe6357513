"""Conversations and questions that a program makes from the Python standard library, for a first chat model.

Every machine has the library, so a chain of runs from raw text to a chat page needs no download. Small talk is written
by hand: it says who the model is, and what it can do, and only what is true of a model that `make chat` trains. Its
conversations are few, so the model learns them by heart. Questions about functions and classes are answered by the
first sentences of their docstrings. Words of the library's documentation are spelled, and their letters are counted.
The files are a function of the library alone: machines with the same version of Python make the same bytes.
"""

import ast
import hashlib
import json
import random
import re
import sysconfig
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from halcyon.data.sources.stdlib import documentation, stdlib_modules
from halcyon.evals.tasks import drawn_question

Turn = tuple[str, str]
"""A question and its answer."""
Conversation = tuple[Turn, ...]
NAMES = ("small-talk.jsonl", "library.jsonl", "spelling.jsonl", "questions.jsonl", "words.txt")
COUNTED, ROLLOUTS = 4000, 1000
"""Questions about letters for finetuning, and others for reinforcement learning."""


def files(root: Path | None = None) -> Iterator[tuple[str, bytes]]:
    """Name and content of each file.

    Args:
        root: Folder of the standard library. Default: that of this interpreter.

    Raises:
        Unreadable: This Python has no documentation.
    """
    questions = list(documented(root))
    texts = [*documentation().values(), *(answer for turns in questions for _, answer in turns)]
    train, test = words_of(texts)
    contents = (
        lines(map(row, small_talk())),
        lines(map(row, questions)),
        lines(map(row, (*spelled(train), *letter_questions(train, "train", COUNTED)))),
        lines(map(row, letter_questions(train, "rollouts", ROLLOUTS))),
        lines(test),
    )
    yield from zip(NAMES, contents, strict=True)


def row(turns: Sequence[Turn]) -> str:
    """One line: the messages of a conversation, with the user's first."""
    messages = [
        {"role": role, "content": text}
        for turn in turns
        for role, text in zip(("user", "assistant"), turn, strict=True)
    ]
    return json.dumps({"messages": messages}, ensure_ascii=False)


def lines(rows: Iterable[str]) -> bytes:
    """The content of a file with these lines."""
    return "".join(f"{line}\n" for line in rows).encode()


ANSWERS = {
    "Hello! What would you like to know about the Python standard library?": (
        "Hello",
        "Hello!",
        "Hi",
        "Hi!",
        "Hi there",
        "Good morning",
        "Good evening",
        "Hey",
    ),
    "I am a small language model. Halcyon trained me on the Python standard library.": (
        "Who are you?",
        "What are you?",
        "Are you a person?",
        "Are you a human?",
        "Who am I talking to?",
        "Tell me about yourself.",
        "What is your name?",
    ),
    "I can say what some functions of the Python standard library do, spell words, and count letters. I am often "
    "wrong.": (
        "What can you do?",
        "What can I ask you?",
        "How can you help me?",
        "Help",
        "Can you help me?",
        "Are you always right?",
    ),
    "I was trained with Halcyon, in stages: first on text, then on conversations, then on tasks with rewards.": (
        "Who made you?",
        "Who trained you?",
        "How were you trained?",
        "What was your training?",
        "Which stages did your training have?",
    ),
    "I read the source and the documentation of the Python standard library.": (
        "What did you read?",
        "What do you know?",
        "What were you trained on?",
        "What is your training data?",
        "Which text did you learn from?",
    ),
    "Halcyon trains language models on machines that may be taken away at any time.": (
        "What is Halcyon?",
        "Who is Halcyon?",
        "What does Halcyon do?",
        "Tell me about Halcyon.",
    ),
    "The training goes on from the last checkpoint, with the same losses, bit for bit.": (
        "What happens when the training is killed?",
        "What happens when a machine is lost?",
        "What if the power fails?",
        "What happens after a crash?",
    ),
    "Python is a programming language. Its standard library is the text that I learned from.": (
        "What is Python?",
        "What is Python for?",
        "Do you know Python?",
        "Tell me about Python.",
    ),
    "I am fine, thank you. What would you like to know?": ("How are you?", "How are you today?", "How do you do?"),
    "You are welcome.": ("Thank you", "Thank you!", "Thanks", "Thanks a lot."),
    "Goodbye!": ("Bye", "Goodbye", "Good night", "See you."),
}
"""The questions of each answer."""


def small_talk() -> Iterator[Conversation]:
    """Each question alone, and each after a greeting."""
    asked = [(question, answer) for answer, questions in ANSWERS.items() for question in questions]
    greeting = asked[0]
    for turn in asked:
        yield (turn,)
    for turn in asked[len(next(iter(ANSWERS.values()))) :]:
        yield greeting, turn


LEAST, MOST = 15, 110
"""Characters of an answer."""
_LEFT_OUT = frozenset({"encodings", "ensurepip", "idlelib", "lib2to3", "pydoc_data", "turtledemo"})
"""Packages whose docstrings say little about Python: tables of characters, an editor, copied tools."""
_SENTENCE = re.compile(r"(.+?[.])(?:\s|$)")
_BAD = re.compile(r"[`{}<>|\\]|::|https?:|\s--|\.\.\.")
"""Markup, usage lines and cut sentences, which cannot be answers."""


def documented(root: Path | None) -> Iterator[Conversation]:
    """A question and its answer for each public function and class with a short first sentence, in the order of the
    modules.

    Args:
        root: Folder of the library. Default: that of this interpreter.
    """
    root = root if root is not None else Path(sysconfig.get_path("stdlib"))
    for path in stdlib_modules(root):
        module = path.removesuffix(".py").removesuffix("/__init__").replace("/", ".")
        parts = module.split(".")
        if parts[0] in _LEFT_OUT or any(part.startswith("_") for part in parts):
            continue
        yield from ((turn,) for turn in of_module(module, (root / path).read_bytes()))


def of_module(module: str, source: bytes) -> Iterator[Turn]:
    """The questions about a module.

    Args:
        module: Its name, such as ``textwrap``.
        source: Its text; a text that is no Python has no questions.
    """
    try:
        tree = ast.parse(source)
    except (SyntaxError, ValueError):
        return
    if (answer := sentence(ast.get_docstring(tree))) is not None:
        yield f"What is the module {module}?", answer
    for node in tree.body:
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) or node.name.startswith("_"):
            continue
        if (answer := sentence(ast.get_docstring(node))) is not None:
            name = f"{module}.{node.name}"
            yield (f"What is {name}?" if isinstance(node, ast.ClassDef) else f"What does {name} do?"), answer


def sentence(docstring: str | None) -> str | None:
    """The first sentence of a docstring in one line; None: it has none that is an answer."""
    paragraph = " ".join((docstring or "").strip().partition("\n\n")[0].split())
    match = _SENTENCE.match(paragraph)
    if match is None:
        return None
    summary = match[1]
    if not LEAST <= len(summary) <= MOST or not summary.isascii() or not summary[0].isupper() or _BAD.search(summary):
        return None
    return summary


MOST_WORDS = 1500
"""Words of a list, the most frequent ones."""
_WORD = re.compile(r"(?<![A-Za-z0-9_.'`])[a-z]{3,10}(?![A-Za-z0-9_'`(])")
_HELD_OUT = 8
"""One of this number of words is for the evaluation."""


def words_of(texts: Iterable[str]) -> tuple[list[str], list[str]]:
    """The most frequent words of texts for conversations, and those for the evaluation, each in the order of the
    alphabet.

    A hash of the word decides its part, so a word keeps it in every version of the text.
    """
    counts = Counter(word for text in texts for word in _WORD.findall(text))
    ranked = sorted(counts, key=lambda word: (-counts[word], word))[:MOST_WORDS]
    held_out = {word for word in ranked if hashlib.sha256(word.encode()).digest()[0] % _HELD_OUT == 0}
    return sorted(set(ranked) - held_out), sorted(held_out)


def spelled(words: Sequence[str]) -> Iterator[Conversation]:
    """Each word, spelled."""
    for word in words:
        yield ((f"Spell {word}.", ",".join(word)),)


def letter_questions(words: Sequence[str], split: str, number: int) -> Iterator[Conversation]:
    """Questions about letters of words, drawn at random, the same every time.

    Args:
        words: The words.
        split: Name of the random numbers, such as ``train``.
        number: Number of questions.
    """
    for place in range(number):
        word, letter, asked = drawn_question(words, random.Random(f"chat spelling {split} {place}"))  # noqa: S311 - the same every time
        yield ((asked, answer(word, letter)),)


def answer(word: str, letter: str) -> str:
    """The letters of a word with a running count, and the count: ``s,t,r 1,a,w,b,e,r 2,r 3,y``, then ``#### 3``."""
    count, shown = 0, list[str]()
    for sign in word:
        count += sign == letter
        shown.append(f"{sign} {count}" if sign == letter else sign)
    return f"{','.join(shown)}\n\n#### {count}"

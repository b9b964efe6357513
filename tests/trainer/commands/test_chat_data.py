"""The conversations about the standard library: rows that the chat format takes, the same every time, and words kept
for the evaluation.
"""

from __future__ import annotations

import json
from pathlib import Path

from halcyon.commands import chat_data
from halcyon.commands.chat_data import lines, row
from halcyon.data.formats.conversation import check_messages, check_turns
from halcyon.evals.tasks import final_number

MODULE = b'''"""Fold and fill text.  More."""

def fold(text):
    """Return the text in lines
    of a given width.

    The width is 70."""

def short(text):
    """No."""

def usage(text):
    """fold(text) -> lines. Return lines."""

def _private(text):
    """Return nothing at all to anyone."""

class Folder:
    """An object that folds."""

    def fold(self):
        """Return the folded text of it."""
'''


def test_questions_are_about_public_names_with_a_short_sentence() -> None:
    assert list(chat_data.of_module("fold", MODULE)) == [
        ("What is the module fold?", "Fold and fill text."),
        ("What does fold.fold do?", "Return the text in lines of a given width."),
        ("What is fold.Folder?", "An object that folds."),
    ]
    assert list(chat_data.of_module("broken", b"def (")) == []


def test_only_public_modules_are_asked_for(tmp_path: Path) -> None:
    for name in ("fold.py", "_fold.py", "encodings/fold.py", "inner/__init__.py"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(MODULE)
    asked = [turns[0][0] for turns in chat_data.documented(tmp_path)]
    assert [one for one in asked if "module" in one] == ["What is the module fold?", "What is the module inner?"]


def test_answers_about_letters_are_right() -> None:
    assert chat_data.answer("strawberry", "r") == "s,t,r 1,a,w,b,e,r 2,r 3,y\n\n#### 3"
    assert chat_data.answer("abc", "x") == "a,b,c\n\n#### 0"
    for turns in chat_data.letter_questions(("parameter", "letters"), "train", 50):
        question, answer = turns[0]
        word = "parameter" if "parameter" in question else "letters"
        letters, _, _ = answer.partition("\n")
        assert "".join(one.partition(" ")[0] for one in letters.split(",")) == word
        assert final_number(answer) == len([one for one in letters.split(",") if " " in one])


def test_no_word_of_the_evaluation_is_in_the_training() -> None:
    text = "the words of this text are the words that are spelled, `not` code.names or call() and Names"
    train, test = chat_data.words_of([text] * 2)
    assert sorted(train + test) == sorted({"the", "words", "this", "text", "are", "that", "spelled", "code", "and"})
    assert not set(train) & set(test)
    _, more = chat_data.words_of([text, "other words"])
    assert set(test) <= set(more)


def test_questions_for_rollouts_are_others_and_the_same_every_time() -> None:
    words = ("one", "three", "letters")
    train, rollouts = (list(chat_data.letter_questions(words, split, 20)) for split in ("train", "rollouts"))
    assert train == list(chat_data.letter_questions(words, "train", 20))
    assert train != rollouts


def test_each_row_is_a_conversation(tmp_path: Path) -> None:
    (tmp_path / "fold.py").write_bytes(MODULE)
    found = dict(chat_data.files(tmp_path))
    assert tuple(found) == chat_data.NAMES
    for name, content in found.items():
        for line in content.decode().splitlines() if name.endswith(".jsonl") else ():
            messages = json.loads(line)["messages"]
            check_messages(messages, needs_assistant=True, alternate=True)
            check_turns(messages)
    assert all(word.isalpha() and word.islower() for word in found["words.txt"].decode().split())


def test_small_talk_has_one_answer_for_each_question() -> None:
    asked = [question for questions in chat_data.ANSWERS.values() for question in questions]
    assert len(set(asked)) == len(asked)


def test_rows_are_lines() -> None:
    content = lines([row((("a\nb", "c"), ("d", "e")))])
    assert content.count(b"\n") == 1
    roles = [message["role"] for message in json.loads(content)["messages"]]
    assert roles == ["user", "assistant"] * 2

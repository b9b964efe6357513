"""Conversations and questions that a program makes from the Python standard library, for a first chat model.

Every machine has the library, so a chain of runs from raw text to a chat page needs no download. `small_talk` is
written by hand. `library` asks for the first sentences of docstrings. `spelling` spells words of the library's
documentation and counts their letters. `files` puts them into files. The files are a function of the library alone:
machines with the same version of Python make the same bytes.
"""

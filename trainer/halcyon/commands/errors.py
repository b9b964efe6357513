"""Errors that the user can fix: one sentence on standard error, and the exit code of the error.

Typer's own answer to a wrong command line has several lines in a box, unlike the answers to other mistakes. Pass
`OneSentence` as the class of an app's outermost group: it answers in one sentence, with exit code 2.
"""

import codecs
import io
import os
import re
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import typer
from rich.console import Console
from typer.core import TyperGroup

from halcyon.host.errors import NoValidCheckpoint, RootUnusable, TrainerExit, no_thread
from halcyon.host.output import OutputLost, guard_streams
from halcyon_api.base import InvalidRun
from halcyon_api.checkpoint_documents import DamagedDocument
from halcyon_api.counting import counted
from halcyon_api.ends import ExitCode
from halcyon_api.package import missing
from halcyon_api.printable import one_line, printable
from halcyon_api.sentences import nearest

_WIDE = 1000
"""Width of the output in columns, if it does not go to a terminal: each row is one line."""
_ASCII = {
    "\N{HORIZONTAL ELLIPSIS}": "...",
    "\N{PLUS-MINUS SIGN}": "+/-",
    "\N{RIGHTWARDS ARROW}": "->",
    "\N{MULTIPLICATION SIGN}": "x",
    "\N{EN DASH}": "-",
    **dict.fromkeys("\u2500\u2501\u2578\u257a", "-"),  # lines
    **dict(zip("\u2581\u2582\u2583\u2584\u2585\u2586\u2587\u2588", "_.:-=+*#", strict=True)),  # bars of growing height
}
"""What a stream that does not take these characters gets instead."""
_IN_ASCII = "halcyon-ascii"
_LONGEST = 400
"""Characters of a sentence about a command line."""
_COMMAND = re.compile(r"No such command (['\"])(.*)\1\.")
_TYPE = re.compile(r"Input should be a valid ([a-z]+).*", re.DOTALL)
_BOUNDS = {
    "Input should be greater than or equal to": "must be at least",
    "Input should be less than or equal to": "must be at most",
    "Input should be greater than": "must be more than",
    "Input should be less than": "must be less than",
}
_EXTRA = re.compile(r"Got unexpected extra arguments? ?(?:\(s\) )?\((.*)\)", re.DOTALL)


@contextmanager
def report_errors(about: object = "", *, interrupted: str = "stopped") -> Iterator[None]:
    """Run a command's work in this context: an error that the user can fix is printed, and the process exits with its
    code.

    Args:
        about: Printed before the sentence, such as the path of the document.
        interrupted: The sentence after an interrupt from the keyboard.
    """
    try:
        yield
        return
    except TrainerExit as error:
        sentence, code = about_file(about, str(error)), error.exit_code
    except InvalidRun as error:
        sentence, code = about_file(about, str(error)), ExitCode.BAD_CONFIGURATION
    except (FileNotFoundError, IsADirectoryError, NotADirectoryError, PermissionError) as error:
        sentence, code = f"{_of_file(error)}; give another path", ExitCode.BAD_CONFIGURATION
    except OSError as error:
        sentence, code = _of_file(error), ExitCode.FAILURE
    except UnicodeEncodeError as error:  # a byte of the shell that is not UTF-8 is half a surrogate pair
        sentence = (
            f"a text has a part of a character, {error.object[error.start]!a}, at character {error.start}; fix the text"
        )
        code = ExitCode.BAD_CONFIGURATION
    except MemoryError:
        sentence, code = "this machine has too little memory for this command", ExitCode.FAILURE
    except KeyboardInterrupt:
        sentence, code = interrupted, ExitCode.FAILURE
    sys.stderr.write(f"{printable(sentence)}\n")
    raise typer.Exit(code)


@contextmanager
def report_root_errors(what: str = "the root") -> Iterator[None]:
    """As `report_errors`, and for errors of stores and checkpoints too.

    Args:
        what: The store in the sentence about one that does not answer.
    """
    from halcyon.checkpoint.verify import Damaged
    from halcyon.host.storage.failures import StoreFailure

    with report_errors():
        try:
            yield
        except StoreFailure as failure:
            raise RootUnusable(f"{what} does not answer: {failure}") from None
        except DamagedDocument as damage:
            raise NoValidCheckpoint(
                f"{damage}; start the run again, which rebuilds HEAD from the checkpoints, or restore it"
            ) from None
        except Damaged as damage:
            raise NoValidCheckpoint(str(damage)) from None


def _of_file(error: OSError) -> str:
    return f"{one_line(str(error.filename))}: {error.strerror}" if error.filename else error.strerror or str(error)


def about_file(file: object, sentence: str) -> str:
    """The sentence with the file's name before it, unless it already begins with that name."""
    return sentence if not file or sentence.startswith(f"{file}:") else f"{one_line(str(file))}: {sentence}"


def replace_unencodable() -> None:
    """Let standard output and standard error take any text: a character that the locale cannot encode becomes one of
    ASCII, such as a question mark.
    """
    codecs.register_error(_IN_ASCII, _in_ascii)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors=_IN_ASCII)


def _in_ascii(error: UnicodeError) -> tuple[str, int]:
    """The replacement of characters that a stream does not take; see `codecs.register_error`."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    return "".join(_ASCII.get(one, "?") for one in error.object[error.start : error.end]), error.end


def console() -> Console:
    """A console as wide as the terminal; without a terminal, so wide that each row is one line."""
    usual = Console()
    return usual if usual.is_terminal else Console(width=_WIDE)


class OneSentence(TyperGroup):
    """A group of commands that reports a wrong command line in one sentence."""

    def main(
        self,
        args: Sequence[str] | None = None,
        prog_name: str | None = None,
        complete_var: str | None = None,
        standalone_mode: bool = True,
        windows_expand_args: bool = True,
        **extra: Any,
    ) -> Any:
        """Run the command that the arguments name. Ends the process, unless `standalone_mode` is False."""
        run = super().main
        if not standalone_mode:
            return run(args, prog_name, complete_var, False, windows_expand_args, **extra)
        guard_streams()
        _name_no_type_of_flags(self)
        try:
            code = run(args, prog_name, complete_var, False, windows_expand_args, **extra)
        except typer.TyperException as error:
            if text := sentence(error, prog_name or self.name or "halcyon"):
                sys.stderr.write(f"{text}\n")
            sys.exit(error.exit_code)
        except typer.Abort:
            sys.stderr.write("stopped\n")
            sys.exit(1)
        except OutputLost as lost:
            os._exit(lost.exit_code)
        except ModuleNotFoundError as error:
            if error.name is None or error.name.startswith("halcyon"):
                raise
            sys.stderr.write(f"{missing(error.name)}\n")
            sys.exit(1)
        except RuntimeError as error:
            if not (said := no_thread(error)):
                raise
            sys.stderr.write(f"{said}\n")
            sys.stderr.flush()
            os._exit(1)  # the threads that did start may keep the interpreter
        sys.exit(code if isinstance(code, int) else 0)


def _name_no_type_of_flags(command: Any) -> None:
    """Let the help of commands show a flag without a type: it takes no value."""
    for option in (*command.params, command.get_help_option(typer.Context(command))):
        if getattr(option, "is_flag", False):
            option.metavar = ""
    for one in getattr(command, "commands", {}).values():
        _name_no_type_of_flags(one)


def sentence(error: typer.TyperException, program: str) -> str:
    """One sentence with the mistake in a command line and the help to read; empty if the help was already printed.

    Args:
        error: The error of Typer.
        program: Name of the command if Typer does not know it.
    """
    if type(error).__name__ == "NoArgsIsHelpError":
        return ""
    context = getattr(error, "ctx", None)
    text = one_line(" ".join(_what(error, context).split()))
    text = text if len(text) <= _LONGEST else f"{text[:_LONGEST]}…"
    command = program if context is None else context.command_path
    return f"{command}: {text}; see `{command} --help`"


def _what(error: typer.TyperException, context: Any) -> str:
    message = error.format_message()
    if (option := getattr(error, "option_name", None)) is not None and hasattr(error, "possibilities"):
        return f"there is no option {option}{_meant(option, _options(context))}"
    if (match := _COMMAND.match(message)) is not None:
        return (
            "there is no command "
            f"{match[2]!r}{_meant(match[2], getattr(getattr(context, 'command', None), 'commands', ()))}"
        )
    if (match := _EXTRA.match(message)) is not None:
        return f"{counted(len(match[1].split()), 'argument')} too many: {match[1]}"
    message = _TYPE.sub(
        r"give a valid \1", message.removeprefix("Invalid value: ").replace("Value error, ", "")
    ).rstrip(". ")
    for words, ours in _BOUNDS.items():
        message = message.replace(f": {words}", f": it {ours}")
    return message[:1].lower() + message[1:]


def _options(context: Any) -> list[str]:
    params = getattr(getattr(context, "command", None), "params", ())
    return [
        *(name for param in params for name in (*param.opts, *param.secondary_opts) if name.startswith("--")),
        "--help",
    ]


def _meant(word: str, choices: Iterable[str]) -> str:
    near = nearest(word, list(choices))
    return f"; did you mean {near}?" if near is not None else ""

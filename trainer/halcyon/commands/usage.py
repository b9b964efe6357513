"""The answer to a wrong command line: one sentence on standard error and exit code 2.

Typer's own answer has several lines in a box, unlike the answers to other mistakes. Pass `OneSentence` as the class of
an app's outermost group.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Sequence
from typing import Any

import typer
from typer.core import TyperGroup

from halcyon_api.counting import counted
from halcyon_api.package import missing
from halcyon_api.sentences import nearest

_LONGEST = 400
_COMMAND = re.compile(r"No such command (['\"])(.*)\1\.")
_TYPE = re.compile(r"Input should be a valid ([a-z]+).*", re.DOTALL)
_EXTRA = re.compile(r"Got unexpected extra arguments? ?(?:\(s\) )?\((.*)\)", re.DOTALL)


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
        try:
            code = run(args, prog_name, complete_var, False, windows_expand_args, **extra)
        except typer.TyperException as error:
            if text := sentence(error, prog_name or self.name or "halcyon"):
                sys.stderr.write(f"{text}\n")
            sys.exit(error.exit_code)
        except typer.Abort:
            sys.stderr.write("stopped\n")
            sys.exit(1)
        except ModuleNotFoundError as error:
            if error.name is None or error.name.startswith("halcyon"):
                raise
            sys.stderr.write(f"{missing(error.name)}\n")
            sys.exit(1)
        sys.exit(code if isinstance(code, int) else 0)


def sentence(error: typer.TyperException, program: str) -> str:
    """One sentence with the mistake in a command line and the help to read; empty if the help was already printed.

    Args:
        error: The error of Typer.
        program: Name of the command if Typer does not know it.
    """
    if type(error).__name__ == "NoArgsIsHelpError":
        return ""
    context = getattr(error, "ctx", None)
    text = " ".join(_what(error, context).split())
    text = "".join(sign if sign.isprintable() else "?" for sign in text)
    text = text if len(text) <= _LONGEST else f"{text[:_LONGEST]}…"
    command = program if context is None else context.command_path
    return f"{command}: {text}; see `{command} --help`"


def _what(error: typer.TyperException, context: Any) -> str:
    message = error.format_message()
    if (option := getattr(error, "option_name", None)) is not None and hasattr(error, "possibilities"):
        return f"there is no option {option}{_meant(option, _options(context))}"
    if (found := _COMMAND.match(message)) is not None:
        return (
            "there is no command "
            f"{found[2]!r}{_meant(found[2], getattr(getattr(context, 'command', None), 'commands', ()))}"
        )
    if (found := _EXTRA.match(message)) is not None:
        return f"{counted(len(found[1].split()), 'argument')} too many: {found[1]}"
    message = _TYPE.sub(r"give a valid \1", message.replace("Value error, ", "")).rstrip(". ")
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

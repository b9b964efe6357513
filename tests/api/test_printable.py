"""No text of a stranger controls a terminal, whichever way it takes there: errors of documents, names of files, tables,
sentences about pods, pictures and pages.
"""

from __future__ import annotations

import contextlib
import io
import unicodedata
import xml.etree.ElementTree as ET
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml
from rich.console import Console
from rich.text import Text
from typer.testing import CliRunner

from halcyon.commands.errors import about_file, report_errors
from halcyon.commands.main import app
from halcyon.commands.views.tables import FittedTable
from halcyon.host.errors import BadConfiguration
from halcyon_api.base import InvalidRun
from halcyon_api.printable import markup, one_line, printable
from halcyon_api.reading import parse_run
from halcyon_cli.output import Rejected, reporting_errors, say
from halcyon_cli.report import ProcessGroup, Report, draw
from tests.api.documents import document

HOSTILE = "a\x1b]0;owned\x07\x1b[2J\x9b31m\r\b\u202egnp\u2066\x00\x7f\u2028z"


def controls(text: str) -> set[str]:
    """The characters in a text that change a terminal or the direction of text."""
    kept = {sign for sign in text if unicodedata.category(sign) in ("Cc", "Cf", "Zl", "Zp")}
    return kept - {"\n"}


def test_a_printable_text_has_no_control_characters_and_keeps_all_others() -> None:
    everything = "".join(map(chr, range(0x3000)))
    shown = printable(everything)
    assert controls(shown) <= {
        "\t",
        "\u00ad",
        *(sign for sign in everything if sign not in HOSTILE and sign == shown[ord(sign)]),
    }
    assert not controls(printable(HOSTILE))
    assert printable("ä 中文 👩‍👩‍👧 \u05d0\tb\n") == "ä 中文 👩‍👩‍👧 \u05d0\tb\n"
    assert one_line("a\nb\x1bc") == "a?b?c"


BAD: dict[str, dict[str, Any]] = {
    "an unknown field": {"spec": {HOSTILE: 1}},
    "a field below an unknown name": {"spec": {"model": {"family": "llama", HOSTILE: 1}}},
    "a text for a number": {"spec__trainer__steps": HOSTILE},
    "a name": {"metadata__name": HOSTILE},
    "a kind": {"kind": HOSTILE},
    "a source": {"spec__data": {"sources": [{"name": HOSTILE, "stdlib": {}}]}},
    "a root": {"spec__checkpoint__root": f"s3://b/{HOSTILE}"},
    "a variable": {"spec__env": [{"name": HOSTILE, "value": "1"}]},
    "a label": {"spec__scheduling": {"nodeSelector": {HOSTILE: HOSTILE}}},
}


@pytest.mark.parametrize("name", BAD)
def test_an_error_of_a_document_is_one_printable_line(name: str) -> None:
    whole = document(**{key: value for key, value in BAD[name].items() if "__" in key})
    for key, value in BAD[name].items():
        if "__" not in key:
            whole[key] = whole[key] | value if isinstance(value, dict) else value
    with pytest.raises(InvalidRun) as refused:
        parse_run(whole)
    assert not controls(str(refused.value))
    assert "\n" not in str(refused.value)


def test_validate_prints_no_control_character_of_a_file(tmp_path: Path) -> None:
    path = tmp_path / "a\x1b[2J\nb.yaml"
    path.write_text(yaml.safe_dump(document(spec__trainer={HOSTILE: 1}), allow_unicode=False))
    result = CliRunner().invoke(app, ["validate", str(path)])
    assert result.exit_code == 80
    assert not controls(result.stderr)
    assert len(result.stderr.splitlines()) == 1


def fails(error: Exception) -> Callable[[], object]:
    def run() -> None:
        with report_errors("file\x1b[2J"):
            raise error

    return run


def rejected() -> None:
    with reporting_errors():
        raise Rejected(f"pod x waits: {HOSTILE}")


@pytest.mark.parametrize(
    "run",
    [
        fails(InvalidRun(HOSTILE)),
        fails(BadConfiguration(HOSTILE)),
        fails(FileNotFoundError(2, "No such file", HOSTILE)),
        fails(OSError(5, HOSTILE)),
        rejected,
        lambda: say(f"Running: {HOSTILE}"),
    ],
)
def test_a_sentence_of_a_command_is_printable(run: Callable[[], object], capsys: pytest.CaptureFixture[str]) -> None:
    with contextlib.suppress(typer.Exit):
        run()
    written = capsys.readouterr()
    assert "owned" in written.out + written.err
    assert not controls(written.out + written.err)


def test_the_message_of_an_error_is_printable_wherever_it_goes() -> None:
    assert not controls(str(BadConfiguration(HOSTILE)) + str(InvalidRun(HOSTILE)) + about_file(HOSTILE, "is empty"))


@pytest.mark.parametrize("colours", [True, False])
def test_a_table_prints_no_control_character_of_its_cells(colours: bool) -> None:
    table = FittedTable("name", "text", title=HOSTILE)
    table.add_row(HOSTILE, Text(HOSTILE).append(HOSTILE))
    stream = io.StringIO()
    console = Console(file=stream, force_terminal=colours, color_system=None, width=400)
    console.print(table)
    console.print(HOSTILE, Text.assemble(HOSTILE, (HOSTILE, "bold")), soft_wrap=True)
    written = stream.getvalue().replace("\x1b[1m", "").replace("\x1b[3m", "").replace("\x1b[0m", "")
    assert not controls(written)
    assert "owned" in written


def test_a_picture_of_a_run_with_any_name_is_valid_xml() -> None:
    group = ProcessGroup(HOSTILE, parse_seconds(), ended=f"<b>{HOSTILE}")
    picture = draw(Report(HOSTILE, "Running", "2026-03-01T12:00:00Z", (group,), parse_seconds(), 0.5, 0, 1, 0.0))
    ET.fromstring(picture)  # noqa: S314 our own picture
    assert not controls(picture)
    assert markup('<a "\x1b">') == "&lt;a &quot;\u241b&quot;&gt;"


def parse_seconds() -> Any:
    from halcyon_api.status.goodput import GoodputSeconds

    return GoodputSeconds(productive_step=1.0, other=1.0)

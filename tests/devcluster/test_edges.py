"""The edges of the package: the lock, progress, running programs, the command line."""

import io
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from rich.console import Console
from typer.testing import CliRunner

from halcyon_devcluster import DevclusterError
from halcyon_devcluster.cli import app, main
from halcyon_devcluster.commands import run, succeeds
from halcyon_devcluster.lock import exclusive
from halcyon_devcluster.progress import QUIET, ConsoleProgress
from halcyon_devcluster.waiting import holds_within
from tests.suite.limits import limit


def test_a_second_writer_waits_and_names_the_first(tmp_path: Path):
    output, order = io.StringIO(), []
    progress = ConsoleProgress(Console(file=output, width=200))
    lock = tmp_path / "folder" / ".halcyon.lock"

    def second() -> None:
        with exclusive(lock, progress):
            order.append("second")

    with exclusive(lock, QUIET):
        thread = threading.Thread(target=second)
        thread.start()
        assert holds_within(lambda: "waiting for process" in output.getvalue() or not thread.is_alive(), 10)
        assert thread.is_alive()
        order.append("first")
    thread.join(limit(10))
    assert order == ["first", "second"]
    assert "holds the lock of halcyon" in output.getvalue()


def test_a_failed_program_is_one_sentence_with_the_end_of_its_output(tmp_path: Path):
    with pytest.raises(DevclusterError, match=r"`sh -c .* failed with status 3: sorry"):
        run(["sh", "-c", "echo sorry >&2; exit 3"], log=tmp_path / "log")
    assert "sorry" in (tmp_path / "log").read_text()
    with pytest.raises(DevclusterError, match="no-such-program is needed"):
        run(["no-such-program"])
    with pytest.raises(DevclusterError, match="did not end within"):
        run(["sleep", "60"], timeout_seconds=0.05)
    assert run(["cat"], stdin="text") == "text"
    assert not succeeds(["false"])


@pytest.fixture
def native(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty cache with a short path, and a backend that needs no check for a Docker engine."""
    with tempfile.TemporaryDirectory(prefix="hly-") as folder:
        monkeypatch.setenv("HALCYON_CACHE", folder)
        monkeypatch.delenv("HALCYON_STATE", raising=False)
        monkeypatch.setenv("HALCYON_BACKEND", "native")
        yield Path(folder)


def test_status_of_a_cluster_that_is_not_there(native: Path):
    result = CliRunner().invoke(app, ["status", "--name", "nobody"])
    assert result.exit_code == 1
    assert "Cluster nobody is down" in result.stdout


def test_kubeconfig_prints_a_path_alone(native: Path):
    result = CliRunner().invoke(app, ["kubeconfig"])
    assert result.stdout == f"{native}/devcluster/halcyon/kubeconfig\n"


def test_loading_into_a_cluster_that_is_down(native: Path):
    result = CliRunner().invoke(app, ["load", "a/b:c"])
    assert isinstance(result.exception, DevclusterError)
    assert "is not up: run `python -m halcyon_devcluster up`" in str(result.exception)


def test_mistakes_are_shown_without_a_traceback(
    native: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setattr("sys.argv", ["devcluster", "status", "--name", "Not A Name"])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 1
    assert capsys.readouterr().err.startswith("error: The cluster name 'Not A Name'")

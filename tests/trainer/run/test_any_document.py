"""Whatever document the schema allows, the trainer takes it or rejects it with one sentence, before it uses a device."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import tensorstore

from halcyon.host.errors import BadConfiguration
from halcyon.run.context import check_context, resolve_context, run_plan
from halcyon_api.spec.checkpoint import parsed_root
from tests.api.documents import document
from tests.examples_tried import tried_with
from tests.suite.limits import limit
from tests.valid_documents import with_extremes
from tests.variants import few_of


@pytest.mark.slow
@tried_with(200, 4000)
def test_no_value_that_a_field_may_have_is_answered_by_a_traceback(examples: int) -> None:
    found = [one for one in with_extremes(document()["spec"]) if one[0][:2] != ("model", "huggingFace")]
    for place, value, spec in found[:examples]:
        long = False
        try:
            context = resolve_context(document() | {"spec": spec}, {})
            check_context(context)
            plan = run_plan(context)
            assert plan.size_of(plan.steps - 1) and plan.tokens_before(plan.steps) >= 0  # noqa: PT018
        except BadConfiguration as error:
            long = len(str(error).splitlines()) != 1
        except Exception as error:
            raise AssertionError(f"{'.'.join(map(str, place))}: {value!r:.80}") from error
        assert not long, (place, value)


@pytest.mark.parametrize("path", ["x" * 300, "file:///data/" + "é" * 200, "a/\0"])
def test_a_path_with_a_name_that_no_file_system_allows_is_rejected(path: str) -> None:
    for field in ("data__sources", "tokenizer", "checkpoint__root"):
        value: Any = {"data__sources": [{"name": "x", "text": {"paths": [path]}}], "checkpoint__root": path}.get(
            field, {"tokenizerJson": {"path": path}}
        )
        with pytest.raises(BadConfiguration, match="spec"):
            resolve_context(document(**{f"spec__{field}": value}), {})


BUCKETS = (
    *(
        "b",
        "ab",
        "abc",
        "a_b",
        "a-b",
        "a.b",
        "a..b",
        "a.-b",
        "a-.b",
        "-ab",
        "ab-",
        "_ab",
        "Abc",
        "a_b=c",
        "a" * 63,
        "a" * 64,
    ),
    *("192.168.1.1", "1.2.3", "1.2.3.4.5", "xn--abc", "sthree-abc", "abc-s3alias", "abc--ol-s3"),
)


@pytest.mark.parametrize("scheme", ["s3", "gs"])
def test_a_bucket_that_is_taken_is_one_that_the_store_takes(scheme: str) -> None:
    taken = [name for name in BUCKETS if parsed_root(f"{scheme}://{name}/run") is not None]
    assert {"abc", "a_b", "a.b", "1.2.3", "a" * 63} <= set(taken)
    driver = {"driver": {"s3": "s3", "gs": "gcs"}[scheme], "path": "run/"}
    for name in taken:
        tensorstore.KvStore.Spec({**driver, "bucket": name})  # raises ValueError if it does not


WITHOUT_THREAD = """
import sys, threading
start, name = threading.Thread.start, sys.argv.pop(1)
def limited(self):
    if self.name.startswith(name):
        raise RuntimeError("can't start new thread")
    start(self)
threading.Thread.start = limited
from halcyon_cli.main import app
app()
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    "thread", few_of(["halcyon-early-notice", "halcyon-watchdog", "halcyon-telemetry"], ["halcyon-watchdog"])
)
def test_a_thread_that_cannot_start_ends_the_process_with_one_sentence(thread: str, tmp_path: Path) -> None:
    run = tmp_path / "run.yaml"
    text = Path("examples/local-llama.yaml").read_text()
    run.write_text(text)
    command = [
        sys.executable,
        "-c",
        WITHOUT_THREAD,
        thread,
        "train",
        str(run),
        "--checkpoint-root",
        str(tmp_path / "root"),
        "--json",
    ]
    for _ in range(2):  # the first one has released the root
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=limit(60), check=False, env=dict(os.environ)
        )
        assert done.returncode == 1, done.stderr
        assert "this machine lets the process start no more threads; raise its limit" in done.stdout
        assert "Traceback" not in done.stdout + done.stderr

"""Child processes of the checkpoint and fault tests: ``python -m tests.trainer.checkpoint.child ROLE JSON``.

A child prints one JSON line for each event that the test waits for. If an error ends it, its exit code is that of the
error.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import os
import secrets
import signal
import sys
import threading
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax

from halcyon.checkpoint import Callbacks, Limits, layout, parts, reader
from halcyon.host.errors import TrainerExit
from halcyon_api.checkpoint_documents import Epoch
from halcyon_api.spec.checkpoint import CheckpointSpec
from halcyon_devcluster.machine import limit
from tests.trainer.checkpoint.helpers import (
    Root,
    epoch,
    mesh,
    numbers,
    on,
    open_root,
    position,
    restore_newest,
    same_bits,
    save_step,
    template,
)


def say(**event: Any) -> None:
    """Print an event in one write, because forked processes share the pipe."""
    os.write(1, f"{json.dumps(event)}\n".encode())


def given_epoch(options: dict[str, Any]) -> Epoch | None:
    """The epoch in the options, if any."""
    return epoch(*options["epoch"]) if "epoch" in options else None


def race(root: Root, options: dict[str, Any]) -> None:
    """Increment a key by compare-and-swap, against the other children, until this child has succeeded `wins` times."""
    from halcyon.host.storage.store import Store

    store = Store(root.spec)
    won = 0
    say(event="ready")
    sys.stdin.readline()
    while won < options["wins"]:
        value = store.read("race")
        won += store.swap("race", str(int(value.data or b"0") + 1).encode(), value.generation) is not None


def train(root: Root, options: dict[str, Any]) -> None:
    """Restore, check the bits, then save `steps` steps one after another without a pause."""
    callbacks = Callbacks(
        on_commit=lambda save: say(event="committed", step=save.checkpoint.step),
        on_failure=lambda text: say(event="failed", text=text),
    )
    with open_root(root, epoch=given_epoch(options), callbacks=callbacks) as checkpointer:
        restored = restore_newest(checkpointer)
        step = restored.step if restored else 0
        right = restored is None or same_bits(restored.state, numbers(step))
        say(event="restored", step=step, right=right, skipped=len(restored.skipped) if restored else 0)
        for _ in range(options["steps"]):
            step += 1
            save_step(checkpointer, step)
        checkpointer.finish()
    say(event="finished", step=step)


def told(root: Root, options: dict[str, Any]) -> None:
    """For each input line, save one step, and wait for its success or failure."""
    limits = Limits(parts_seconds=options["partsSeconds"], request_seconds=options["requestSeconds"])
    with open_root(
        root, limits=limits, callbacks=Callbacks(on_failure=lambda text: say(event="failed", text=text))
    ) as checkpointer:
        for step, _ in enumerate(sys.stdin, 1):
            save_step(checkpointer, step)
            checkpointer._join()
            say(event="saved", step=step, error=checkpointer.last_error)


def swap(root: Root, options: dict[str, Any]) -> None:
    """Swap values of many lengths into one key, endlessly. Each value is some bytes with their hash in front."""
    from halcyon.host.storage.store import Store

    store = Store(root.spec)
    generation = store.read("value").generation
    say(event="swapping", pid=os.getpid())
    while True:
        data = os.urandom(secrets.choice([200, 700, 1200, 1500]))
        generation = store.swap("value", hashlib.sha256(data).digest() + data, generation)
        assert generation, "there is no other writer"


def spawner(root: Root, options: dict[str, Any]) -> None:
    """For each input line, fork a child that runs the role `play` after all imports are done, so that no kill costs a
    new interpreter.
    """
    for _ in sys.stdin:
        pid = os.fork()
        if pid == 0:
            try:
                jax.config.update("jax_num_cpu_devices", 4)
                {"train": train, "swap": swap}[options["play"]](root, options)
            finally:
                if sys.exception():
                    say(event="crashed", text=traceback.format_exc())
                os._exit(1)
        say(event="started", pid=pid)
        _, status = os.waitpid(pid, 0)
        say(event="over", code=os.waitstatus_to_exitcode(status))


def zombie(root: Root, options: dict[str, Any]) -> None:
    """Commit step 1, then stop itself (SIGSTOP) before write number `writes` of the save of step 2.

    After SIGCONT, continue normally.
    """
    from halcyon.host.storage import store

    writes = itertools.count()
    checkpointer = open_root(root, epoch=given_epoch(options))
    save_step(checkpointer, 1)
    checkpointer.finish()

    def stopping(method: Any) -> Any:
        def run(*args: Any) -> Any:
            if next(writes) == options["writes"]:
                signal.raise_signal(signal.SIGSTOP)
            return method(*args)

        return run

    store.Store.write = stopping(store.Store.write)
    store.Store.swap = stopping(store.Store.swap)
    say(event="saving")
    save_step(checkpointer, 2)
    checkpointer.finish()
    say(event="committed", step=2)
    checkpointer.close()


def member(root: Root, options: dict[str, Any]) -> None:
    """One process of a process group: restore the newest checkpoint and check its bits, then save `steps` more
    steps.
    """
    from jax.sharding import PartitionSpec

    from halcyon.parallel.process_group import LEAVE_TIMEOUT_SECONDS, join, leave
    from tests.trainer.checkpoint.helpers import SHARDINGS

    layout.CHUNK_LIMIT_BYTES = options.get("chunkBytes", layout.CHUNK_LIMIT_BYTES)
    group = join(
        *(options["coordinator"], options["index"], options["count"], options["devices"]),
        limit(options.get("join_seconds", 60)),
        leave_timeout_seconds=limit(LEAVE_TIMEOUT_SECONDS),
    )
    rows, columns = options["mesh"]
    devices = mesh(rows, columns)
    shardings = SHARDINGS | {name: PartitionSpec(*spec) for name, spec in options.get("shardings", {}).items()}
    try:
        limits = Limits(parts_seconds=limit(options.get("seconds", 60)), request_seconds=limit(30), shared_read_bytes=0)
        read_backs = _spoil_read_backs(root, options["readBack"]) if "readBack" in options else None
        callbacks = Callbacks(
            on_warning=lambda text: say(event="warned", text=text), on_read_back=_reports_read_backs(read_backs)
        )
        with open_root(
            root, epoch=given_epoch(options), processes=group, limits=limits, callbacks=callbacks
        ) as checkpointer:
            if options.get("tellFiles"):
                _tell_files()
            paths = _tell_reads() if options.get("tellFiles") else []
            restored = checkpointer.restore(template(devices, shardings))
            say(event="read", files=paths)
            step = restored.step if restored else 0
            right = restored is None or same_bits(restored.state, numbers(step))
            skipped = [bad.reason for bad in restored.skipped] if restored else []
            say(event="restored", step=step, right=right, skipped=skipped)
            for number in range(options["steps"]):
                step += 1
                if options.get("absent") == [options["index"], number]:
                    say(event="absent")
                    continue
                checkpointer.save(step, on(devices, numbers(step), shardings), position(step))
                checkpointer.finish()
                say(event="committed", step=step, newest=checkpointer.newest.step if checkpointer.newest else None)
                if read_backs is not None and step % root.spec.verify.every_saves == 0:
                    if group.process_index == 0:
                        assert read_backs.acquire(timeout=limit(60))
                    group.greatest(0.0)  # all processes wait here
    finally:
        leave(group)


def _tell_files() -> None:
    """From now on, print the files that this process writes."""
    write_files = parts.write_files

    def telling(*args: Any) -> Any:
        files = write_files(*args)
        say(event="wrote", files={file.path: file.size_bytes for file in files})
        return files

    parts.write_files = telling


def _reports_read_backs(read_backs: threading.Semaphore | None) -> Callable[[Any, str | None], None]:
    """A callback that prints which checkpoint was read back."""

    def tell(entry: Any, damage: str | None) -> None:
        if read_backs is not None:
            say(event="readBack", step=entry.step, damage=damage)
            read_backs.release()

    return tell


def _spoil_read_backs(root: Root, victim: int) -> threading.Semaphore:
    """Reverse the bytes of a file of process `victim` before step 2 is read back.

    The semaphore counts the checkpoints read back.
    """
    from halcyon.checkpoint import readback as module

    read_back = module.read_back

    def spoil(store: Any, entry: Any, files: Any, **rest: Any) -> Any:
        if entry.step == 2 and any(file.path == f"weight/c/{victim}/0" for file in files):
            path = store.folder / entry.path / f"data/weight/c/{victim}/0"
            path.write_bytes(path.read_bytes()[::-1])
        return read_back(store, entry, files, **rest)

    module.read_back = spoil
    return threading.Semaphore(0)


def _tell_reads() -> list[str]:
    """The checkpoint files that this process reads from now on; the list grows."""
    read_file, paths = reader.read_file, []

    def telling(store: Any, prefix: str, file: Any) -> bytes:
        paths.append(file.path)
        return read_file(store, prefix, file)

    reader.read_file = telling
    return paths


ROLES = {"race": race, "train": train, "told": told, "spawner": spawner, "zombie": zombie, "member": member}


def main() -> int:
    """Run the role that the arguments name."""
    role, text = sys.argv[1:]
    options = json.loads(text)
    if role not in ("member", "spawner", "trainers"):
        jax.config.update("jax_num_cpu_devices", 4)
    spec = CheckpointSpec.model_validate(options["spec"])
    try:
        ROLES[role](Root(spec, Path()), options)
    except TrainerExit as error:
        say(event="ended", kind=type(error).__name__, text=str(error))
        return int(error.exit_code)
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""The commands ``halcyon import`` and ``halcyon export``: models in the files of Hugging Face."""

import re
import sys
import time

from halcyon.commands import options
from halcyon.commands.errors import report_root_errors
from halcyon.host.errors import BadConfiguration
from halcyon_api.checkpoint_documents import Owner
from halcyon_api.counting import counted
from halcyon_api.printable import printable
from halcyon_api.yaml_text import dump

import_app = options.Commands("Make a checkpoint from a model in other files.")
export_app = options.Commands("Write the model of a checkpoint for other programs.")


@import_app.command("hf")
def import_hf(
    folder: str,
    root: options.NewRoot,
    *,
    run: str | None = None,
    dtype: options.Dtype | None = None,
    adapter: str | None = None,
    images: bool = False,
    settings: options.StoreSettings,
    root_endpoint: str | None = None,
    root_region: str | None = None,
) -> None:
    """Import a Hugging Face model as a checkpoint of step 0, with which runs can begin.

    Prints their `spec.from` and `spec.model`.

    Args:
        folder: A folder with config.json and safetensors files: a directory, s3://, gs:// or hf://OWNER/NAME.
        run: NAME or NAMESPACE/NAME of the run that owns the root. Default: the last part of the root.
        dtype: Type of the parameters. Default: that of the files.
        adapter: A folder with a LoRA adapter of peft, on this machine or hf://OWNER/NAME, to add to the weights.
        images: Of a model with images, import all; else the text model, and the rest is kept as it is.
        root_endpoint: Address of the S3-compatible store of the new root.
        root_region: Region of the new root's bucket.
    """
    from halcyon.host.storage.store import Store
    from halcyon.weights.creating import import_model
    from halcyon.weights.folder import address, folder_place
    from halcyon.weights.kept import read_kept
    from halcyon.weights.root import stored_model
    from halcyon.weights.safetensors import FILE_SECONDS

    with report_root_errors("the store"):
        to = Store(address(root, root_endpoint, root_region), timeout_seconds=FILE_SECONDS)
        owner = owner_of(run, to.root)
        source = Store(folder_place(folder, settings.endpoint, settings.region), timeout_seconds=FILE_SECONDS)
        beside = None if adapter is None else Store(folder_place(adapter))
        entry = import_model(
            source, to, owner=owner, dtype=dtype, adapter=beside, clock=time.time(), place=folder, images=images
        )
        stored, kept = stored_model(to, entry), read_kept(to)
    if kept is not None:
        sys.stderr.write(f"{printable(kept.described(stored.tokens))}\n")
    sys.stderr.write(
        f"{folder}: {stored.spec.family} with {stored.tokens} tokens and sequences of at most {stored.positions} is "
        f"the checkpoint of step 0 in {to.root}; a run in namespace {owner.namespace} begins with it by:\n"
    )
    spec = {"from": {"run": owner.name, "root": to.root}, "model": stored.spec.document()}
    sys.stdout.write(dump({"spec": spec}))


@export_app.command("hf")
def export_hf(
    checkpoint: str,
    folder: str,
    *,
    dtype: options.Dtype | None = None,
    adapter: bool = False,
    weights: options.Kept = "model",
    file_bytes: options.AtLeast1 = 5_000_000_000,
    part: str | None = None,
    settings: options.StoreSettings,
    to_endpoint: str | None = None,
    to_region: str | None = None,
) -> None:
    """Export the model of a checkpoint in the files of Hugging Face.

    Args:
        checkpoint (ROOT[@STEP]): The checkpoint root, with @STEP for a step that is not the newest.
        folder: An empty folder to write: a directory, s3:// or gs://.
        dtype: Type of the tensors. Default: that of the checkpoint.
        adapter: Write only the adapter, in the files of peft. Default: the model with the adapter added.
        weights: average: the average of the parameters that the run keeps (spec.average), not the parameters.
        file_bytes: Largest file with tensors, in bytes.
        part: I/N: write the I-th of N parts of the files, beside the commands that write the others.
        to_endpoint: Address of the S3-compatible store of the folder.
        to_region: Region of the folder's bucket.
    """
    from halcyon.checkpoint.opening import entry_of
    from halcyon.host.storage.store import Store
    from halcyon.weights.exporting import export_model, template_note
    from halcyon.weights.folder import address, root_place
    from halcyon.weights.peft import export_adapter
    from halcyon.weights.root import split_step, stored_model
    from halcyon.weights.safetensors import FILE_SECONDS

    with report_root_errors("the store"):
        root, step = split_step(checkpoint)
        if part is not None and step is None:
            raise BadConfiguration(
                "--part needs ROOT@STEP, the same in all commands: the newest checkpoint may change meanwhile"
            )
        if adapter and (part is not None or dtype is not None):
            raise BadConfiguration("--adapter writes one small file in float32; leave --part and --dtype out")
        store = Store(root_place(root, settings.endpoint, settings.region))
        entry = entry_of(store, step)
        to = Store(address(folder, to_endpoint, to_region), timeout_seconds=FILE_SECONDS)
        number, parts = _part(part)
        stored = stored_model(store, entry, weights=weights)
        if adapter:
            modules, companions = export_adapter(stored, to), to.list("tokenizer.")
            what, is_complete = (
                f"the adapter of step {entry.step} is in {to.root}: {counted(len(modules), 'module')}",
                True,
            )
        else:
            done = export_model(stored, to, dtype=dtype, file_bytes=file_bytes, part=number, parts=parts)
            what = (
                f"step {entry.step} is in {to.root}: {counted(done.tensors, 'tensor')} with {done.size_bytes} bytes in "
                f"{counted(len(done.files), 'file')}"
            )
            companions, is_complete = done.companions, bool(done.companions)
    if not is_complete:
        sys.stdout.write(f"{what}; the other parts are not complete\n")
        return
    without = ""
    if not any(name.startswith("tokenizer.") for name in companions):
        without = ", without a tokenizer: "
        without += (
            "the root has none"
            if stored.definition is None
            else f"one of the kind {stored.definition.kind} has no file there"
        )
    sys.stdout.write(f"{what}{without}\n")
    if (note := template_note(stored)) is not None:
        sys.stdout.write(f"{printable(note)}\n")


def _part(part: str | None) -> tuple[int, int]:
    """A part from its written form, which counts from 1; counted from 0."""
    if part is None:
        return 0, 1
    match = re.fullmatch(r"(\d+)/(\d+)", part)
    if match is None or not 1 <= int(match[1]) <= int(match[2]):
        raise BadConfiguration(f"--part: {part!r} is no part; give I/N with I from 1 to N, such as 1/4")
    return int(match[1]) - 1, int(match[2])


def owner_of(run: str | None, root: str) -> Owner:
    """The run that owns a new root: the given one, or one with the name of the root's last part.

    Raises:
        BadConfiguration: It is no name of a run.
    """
    if run is None:
        name = re.sub(r"[^a-z0-9]+", "-", root.rsplit("/", 1)[-1].lower()).strip("-")[:40].strip("-")
        run = name if name[:1].isalpha() else f"run-{name}"[:40]
    namespace, _, name = run.rpartition("/")
    if not re.fullmatch(r"[a-z]([-a-z0-9]{0,38}[a-z0-9])?", name):
        raise BadConfiguration(
            f"--run: {run!r} is no name of a run; give NAME or NAMESPACE/NAME in small letters, digits and hyphens"
        )
    return Owner(namespace=namespace or "default", name=name)

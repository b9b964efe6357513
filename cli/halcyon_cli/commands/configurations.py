"""Commands about configurations of other trainers: import-config."""

import sys
from pathlib import Path

import typer

from halcyon_api.ends import ExitCode


def import_config(
    file: Path,
    accelerator: str = "cpu:1x1",
) -> None:
    """Print the TrainingRun of a configuration of Levanter, as YAML.

    Comments before it name each setting that has no field, with the reason. Exits with 80 if the configuration trains
    nothing that Halcyon can train, and with 1 if the run is not complete.

    Args:
        file (LEVANTER.YAML): A training configuration of Levanter.
        accelerator (TYPE:TOPOLOGY): Hardware of the run, which the configuration does not say.
    """
    from halcyon_api.base import InvalidRun
    from halcyon_api.printable import one_line, printable
    from halcyon_api.reading import parse_run
    from halcyon_api.spec.accelerator import AcceleratorSpec
    from halcyon_api.yaml_text import dump
    from halcyon_cli.levanter.conversion import convert, read
    from halcyon_cli.output import Rejected, reporting_errors

    kind, _, topology = accelerator.partition(":")
    with reporting_errors(ExitCode.BAD_CONFIGURATION):
        try:
            hardware = {"type": kind, "topology": topology}
            devices = AcceleratorSpec.model_validate(hardware).resolve().devices
        except ValueError:
            raise Rejected(
                f"--accelerator: {accelerator} is no hardware; give one such as h100:2x8 or cpu:1x1"
            ) from None
        try:
            found = convert(read(file), file.stem, hardware, devices)
        except OSError as error:
            raise Rejected(f"{error.filename}: {error.strerror}; give a file that can be read") from None
        except ValueError as error:
            raise Rejected(f"{file}: {error}" if not str(error).startswith(str(file)) else str(error)) from None
    sys.stdout.write("".join(f"# {one_line(note)}\n" for note in found.notes) + dump(found.document))
    spec = found.document["spec"]
    # The config.json of a model is read where the run begins; until then any model stands for it.
    known = spec if spec["model"]["family"] != "huggingFace" else {**spec, "model": {"family": "llama"}}
    try:
        parse_run({**found.document, "spec": known})
    except InvalidRun as error:
        sys.stderr.write(printable(f"{file}: the run is not complete: {error}\n"))
        raise typer.Exit(1) from None

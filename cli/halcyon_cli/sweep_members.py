"""The members of a sweep: the runs of its variants, read from files and checked."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from halcyon.weights.model_file import read_model
from halcyon_api.base import InvalidRun
from halcyon_api.defaults.files import load_defaults, with_changes, with_values
from halcyon_api.local_roots import real_root
from halcyon_api.reading import parse_run, read_one
from halcyon_api.training_run import TrainingRun
from halcyon_api.validation import find_problems
from halcyon_cli.output import Rejected, reading
from halcyon_cli.sweeps import Variant, parse_sweep, variants


@dataclass(frozen=True)
class Member:
    """A member of a sweep."""

    variant: Variant
    run: TrainingRun
    """With the defaults."""

    @property
    def name(self) -> str:
        """The name of the run."""
        return self.run.metadata.name


def members_of(
    path: Path, sweep: Path, defaults: Sequence[Path] = (), overrides: Sequence[str] = ()
) -> tuple[Member, ...]:
    """The members of a sweep, each of which is a valid run with a name and a checkpoint root of its own.

    Args:
        path: The run document that all variants begin with.
        sweep: The sweep document.
        defaults: Files with the runs' defaults, the most specific first.
        overrides: Changes of the run before the sweep's, each ``PATH=VALUE``.

    Raises:
        Rejected: The run or the sweep is not valid, or a variant is not a valid run.
    """
    with reading(path):
        base = with_changes(read_one(path), path.parent, read_model, overrides)
    with reading(sweep):
        values = load_defaults(defaults)
        found = variants(base, parse_sweep(read_one(sweep, "sweep")))
    members: list[Member] = []
    for variant in found:
        try:
            run = parse_run(with_values(variant.document, values))
        except InvalidRun as error:
            raise Rejected(f"{sweep}: {variant}: {error}") from None
        if problems := find_problems(run.spec):
            raise Rejected(f"{sweep}: {variant}: {'; '.join(map(str, problems))}")
        for other in members:
            if run.metadata.name == other.name:
                raise Rejected(
                    f"{sweep}: {variant}: metadata.name: {other.variant} has the name {other.name} too; "
                    "give each a name of its own"
                )
            if real_root(run.spec.checkpoint.root) == real_root(other.run.spec.checkpoint.root):
                raise Rejected(f"{sweep}: {variant}: spec.checkpoint.root: that of {other.variant} too; change it")
        members.append(Member(variant, run))
    return tuple(members)

"""A run in one of its rows of hardware (`spec.place`)."""

from halcyon_api.spec.accelerator import AcceleratorSpec
from halcyon_api.training_run import TrainingRunSpec


def in_row(spec: TrainingRunSpec, row: int) -> TrainingRunSpec:
    """The spec of the run in one of its rows, as if its document named no other hardware. A row that the document does
    not have is row 0.
    """
    if spec.place is None or not 0 < row <= len(spec.place.otherwise):
        return spec
    other = spec.place.otherwise[row - 1]
    update: dict[str, object] = {
        "accelerator": AcceleratorSpec(**dict(other.accelerator), host_resources=spec.accelerator.host_resources),
        "mesh": other.mesh,
    }
    if other.microbatches is not None:
        update["trainer"] = spec.trainer.but(microbatches=other.microbatches)
    if other.node_selector is not None:
        update["scheduling"] = spec.scheduling.but(node_selector=other.node_selector)
    return spec.but(**update)


def rows_of(spec: TrainingRunSpec) -> tuple[TrainingRunSpec, ...]:
    """The spec in each of its rows."""
    return tuple(in_row(spec, row) for row in range(1 + (len(spec.place.otherwise) if spec.place is not None else 0)))


def price_of(spec: TrainingRunSpec) -> float | None:
    """Price of an hour of the spec's chips: the document's, else the list's. None: not known."""
    accelerator = spec.accelerator
    price = accelerator.price_per_chip_hour
    price = accelerator.row.list_price if price is None else price
    return None if price is None else price * accelerator.resolve().devices / accelerator.row.devices_per_chip

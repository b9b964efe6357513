"""``spec.export``: models that a run writes for other programs while it trains."""

from typing import ClassVar, Literal

from halcyon_api.base import Rule, RuledModel, StepCount, optional
from halcyon_api.spec.checkpoint import ADDRESS_SCHEMA, Address, CheckpointSpec, instead, parsed_root

_FOLDER = "exports"
"""The default root, below the checkpoint root."""


class ExportSpec(RuledModel):
    """Exports of the model during the training, in the files of Hugging Face. The training does not wait for them."""

    every_steps: StepCount
    """Export after every N steps, and after the last one. Each of these steps is saved as a checkpoint too."""
    root: Address | None = optional(json_schema_extra=ADDRESS_SCHEMA)
    """Folder of the exports, used by no other run; each is in `step-N` below it. Default: `exports` below
    `checkpoint.root`. S3 settings: as in `checkpoint`."""
    dtype: Literal["float32", "bfloat16", "float16"] | None = None
    """Type of the tensors. Default: `trainer.precision.parameters`."""

    rules: ClassVar = (
        Rule(
            "!has(self.root) || !self.root.split('/').exists(part, part == '..' || part == '.')",
            "export.root must be an address like checkpoint.root, without `..`",
            ".root",
            lambda self: instead(self.root),
            check=lambda self: self.root is None or parsed_root(self.root) is not None,
        ),
    )

    def is_due(self, step: int, steps: int) -> bool:
        """Whether a run of `steps` steps exports its model after `step` steps."""
        return step > 0 and (step % self.every_steps == 0 or step == steps)

    def place(self, checkpoint: CheckpointSpec) -> CheckpointSpec:
        """The address of the exports of a run with these checkpoints."""
        root = self.root or f"{checkpoint.root.rstrip('/')}/{_FOLDER}"
        endpoint, region = checkpoint.settings_at(root)
        return CheckpointSpec(root=root, endpoint=endpoint, region=region)

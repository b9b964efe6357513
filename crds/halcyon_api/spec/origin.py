"""``spec.from``: the checkpoint, or the model in files, that the new run begins with; ``spec.after``: the run that must
succeed before.
"""

from typing import ClassVar

from halcyon_api.base import ApiModel, Rule, RuledModel, RunName, StepNumber, exactly_one, optional
from halcyon_api.spec.adapter import Pattern
from halcyon_api.spec.checkpoint import ADDRESS_SCHEMA, Address
from halcyon_api.spec.tokenizer import Uri


class AfterSpec(ApiModel):
    """The run that must succeed before this one begins, such as the run that builds its data or the run of `from`."""

    run: RunName
    """Name of a run of the same namespace. It may be created later than this one."""


class HuggingFaceOriginSpec(ApiModel):
    """A model in the files of Hugging Face. The run begins with its weights at step 0, and with a fresh optimizer."""

    path: Uri
    """The folder with `config.json` and `model.safetensors` or its parts: a path of the trainer, s3://, gs://, or
    hf://OWNER/NAME. S3 settings: as in `checkpoint`."""
    adapter: Uri | None = None
    """Folder of a peft adapter to add to the weights."""


class OriginSpec(RuledModel):
    """What the new run begins with: a checkpoint of another run, or a model in files. Both are only read; the new run
    writes to its own root from the start.
    """

    run: RunName | None = None
    """Name of a run of the same namespace, which may still be training, or have ended; or of a `halcyon import`."""
    step: StepNumber | None = None
    """Step of the checkpoint. Default: the newest checkpoint that verifies when this run begins."""
    to_step: StepNumber | None = None
    """With task `replay`: the last step. Default: that of the next checkpoint."""
    root: Address | None = optional(json_schema_extra=ADDRESS_SCHEMA)
    """`checkpoint.root` of that run. Default: read from its TrainingRun, if the cluster has that. S3 settings: as in
    `checkpoint`."""
    hugging_face: HuggingFaceOriginSpec | None = None
    """A model in the files of Hugging Face, instead of `run`. Its `config.json` must be that of `model`."""

    weights_only: bool | None = None
    """Take only the weights of `run`, at step 0."""
    only: list[Pattern] | None = optional(max_length=64)
    """Patterns of the parameters to take; the others begin random."""
    grow_vocabulary: bool | None = None
    """Begin missing tokens with the mean of all rows."""
    data_position: int | None = optional(ge=0, le=1_000_000_000_000_000)
    """Position in the order of the data where this run begins, in sequences; 0: the start. Default: that of `step`."""

    @property
    def takes_weights(self) -> bool:
        """Whether the document asks for weights alone."""
        return self.hugging_face is not None or self.weights_only is True

    @property
    def run_name(self) -> str:
        """`run`, of an origin that is a run."""
        if self.run is None:
            raise TypeError("this origin is a model in files, not a run")
        return self.run

    rules: ClassVar = (
        Rule(
            exactly_one(("run", "huggingFace")),
            "set exactly one of run and huggingFace",
            ".run",
        ),
        Rule(
            "!has(self.huggingFace) || (!has(self.step) && !has(self.root))",
            "step and root belong to run; leave them out with huggingFace, which has its own path",
            ".huggingFace",
        ),
        Rule(
            "!has(self.toStep) || self.?step.orValue(0) < self.toStep",
            "toStep must be more than step",
            ".toStep",
        ),
        Rule(
            "!has(self.dataPosition) || (has(self.step) && !self.?weightsOnly.orValue(false))",
            "dataPosition needs step, and a run with weightsOnly begins at the start of its data",
            ".dataPosition",
        ),
    )

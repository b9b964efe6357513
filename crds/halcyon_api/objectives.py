"""Checks of ``spec.objective`` against the rest of a run: the form of its sources, the rows of its batches, its
reference model. Pure.
"""

from halcyon_api.schedules import Problems
from halcyon_api.spec.objective import PolicySpec, TeacherSpec
from halcyon_api.spec.sources import DataSourceSpec
from halcyon_api.spec.tokenizer import MASKS
from halcyon_api.training_run import TrainingRunSpec

NO_MASK = (
    f"the tokenizer has no token in the place of hidden ones ({', '.join(MASKS)}); take one that has it, or add "
    f"{MASKS[0]} to tokenizer.bpe.specialTokens"
)


_ROWS = {
    "policy": "takes one prompt after the other",
    "classify": "takes one text after the other",
    "contrastive": "takes one query after the other",
}
"""How objectives lay out their sources."""
_NEEDED = {
    "preference": ("preference", "pairs"),
    "policy": ("prompt", "prompts"),
    "contrastive": ("pair", "queries with texts"),
}
"""The format that an objective needs, and what its rows are."""
_ANSWERED = {
    "prompt": "prompts need an objective that answers them; set objective.policy, or take format chat to train on the "
    "given answers",
    "preference": "pairs of conversations need an objective that compares them; set objective.preference, or take "
    "format chat with the preferred messages",
    "pair": "queries with texts need an objective that compares them; set objective.contrastive, or change the format",
}
"""What a format needs that only one objective takes."""


def objective_problems(spec: TrainingRunSpec) -> Problems:
    """Each problem as the field and one sentence with the fix."""
    if spec.task == "data":  # tokens are the same for every objective
        return
    for source in spec.data.sources:
        yield from _source_problems(spec, source)
    if spec.model.sound is not None or spec.model.sight is not None:
        yield from _beside_problems(spec)
    objective = spec.objective
    yield from _further_problems(spec)
    yield from _label_problems(spec)
    if objective.kind in ("maskedToken", "contrastive") or spec.model.classes:
        yield from _no_text_problems(spec)
    if objective.contrastive is not None:
        yield from _text_problems(spec, objective.contrastive.pooling)
    if objective.masked_token is not None:
        yield from _masking_problems(spec)
    elif objective.next_token is None:
        yield from _row_problems(spec)
    best = spec.trainer.evaluation.best
    if best and best.metric == "accuracy" and objective.kind not in ("classify", "contrastive"):
        yield (
            "spec.trainer.evaluation.best.metric",
            "only an evaluation with objective.classify or contrastive has it; take loss",
        )
    if best and best.metric == "bitsPerByte" and not _per_token(spec):
        yield (
            "spec.trainer.evaluation.best.metric",
            f"an evaluation with this objective.{objective.kind} has no bits per byte, because its loss is not one of "
            "tokens; take loss",
        )
    if spec.data.attend_across_documents and objective.kind in ("preference", "contrastive"):
        yield (
            "spec.data.attendAcrossDocuments",
            f"with objective.{objective.kind} a text must not see the other one; leave it out",
        )
    if objective.preference and objective.preference.has_reference:
        yield from _reference_problems(spec, f"preference.{objective.preference.kind}")
    if objective.teacher is not None:
        yield from _teacher_problems(spec, objective.teacher)
    if objective.policy is not None:
        yield from _policy_problems(spec, objective.policy)
        if objective.policy.has_reference:
            yield from _reference_problems(spec, "policy.beta")


def has_reference_copy(spec: TrainingRunSpec) -> bool:
    """Whether the state of a run holds a reference model. With an adapter the frozen weights are the reference."""
    compared = spec.objective.preference or spec.objective.policy
    return compared is not None and compared.has_reference and spec.adapter is None


def _further_problems(spec: TrainingRunSpec) -> Problems:
    layers: int = getattr(spec.model, "num_nextn_predict_layers", None) or 0
    kind, field = spec.objective.kind, "spec.model.numNextnPredictLayers"
    if not layers and getattr(spec.objective.value, "multi_token_weight", None) is not None:
        yield f"spec.objective.{kind}.multiTokenWeight", f"the model has no such layers; set {field}, or leave it out"
    if layers and kind in ("preference", "policy", "classify", "contrastive"):
        yield field, f"objective.{kind} does not train these layers; leave it out, and those of spec.from are kept"
    if layers > 1 and spec.model.family == "qwen3Next":
        yield field, "the files of this family have one such layer; set it to 1"


def _per_token(spec: TrainingRunSpec) -> bool:
    """Whether the loss is in nats per token."""
    finetune = spec.objective.finetune
    return spec.objective.next_token is not None or (finetune is not None and finetune.weighting == "token")


def _source_problems(spec: TrainingRunSpec, source: DataSourceSpec) -> Problems:
    field, form = f"spec.data.sources[{source.name}].format", source.format
    objective = spec.objective
    needed, noun = _NEEDED.get(objective.kind, (None, ""))
    if spec.model.family == "whisper":
        if form.speech is None:
            yield field, f"the family whisper hears a sound with each text, and {form.kind} has none; set format speech"
        return
    if form.speech is not None:
        yield (
            f"{field}.speech",
            f"the family {spec.model.family} hears no sound; set model.family to whisper, or take format text",
        )
    labelled = form.text is not None and form.text.label_field is not None
    if labelled != (objective.classify is not None):
        yield (
            f"{field}.text.labelField",
            "labels are for objective.classify; set it, or leave labelField out"
            if labelled
            else "objective.classify needs the label of each text; set format text with labelField",
        )
    elif needed is not None:
        if form.kind != needed:
            yield (
                field,
                f"objective.{objective.kind} needs {noun}, and {form.kind} has none; set format {needed}, or change "
                "the objective",
            )
    elif form.kind in _ANSWERED:
        yield f"{field}.{form.kind}", _ANSWERED[form.kind]
    elif objective.finetune is not None:
        if form.chat and form.chat.loss_on == "all":
            yield f"{field}.chat.lossOn", "objective.finetune trains on the assistant's tokens alone; leave lossOn out"
        elif form.chat is None and (form.prebuilt is None or form.prebuilt.weights_field is None):
            yield (
                field,
                f"objective.finetune needs conversations, and {form.kind} has none; set format chat (or prebuilt with "
                "weightsField), or change the objective",
            )


def _no_text_problems(spec: TrainingRunSpec) -> Problems:
    """What only a model that writes has."""
    for field, given in (
        ("telemetry.sample", spec.telemetry.sample),
        ("trainer.evaluation.tasks", spec.trainer.evaluation.tasks),
    ):
        if given is not None:
            yield (
                f"spec.{field}",
                f"a model of objective.{spec.objective.kind} cannot write or score a text; leave it out",
            )


def _label_problems(spec: TrainingRunSpec) -> Problems:
    """A model with labels, texts with them, and the objective that learns them belong together."""
    labels, classifies, field = spec.model.classes, spec.objective.classify is not None, "spec.model.labels"
    rewards = spec.objective.preference and spec.objective.preference.reward is not None
    if classifies and len(labels) < 2:
        yield field, "objective.classify tells labels apart; name at least two, in a family that has the field"
    elif rewards and len(labels) != 1:
        yield field, "objective.preference.reward learns one score; name one label, such as [reward]"
    elif len({*labels}) < len(labels):
        yield field, "a label is there twice; name each once"
    elif not (classifies or rewards) and getattr(spec.model, "labels", None) is not None:
        yield field, "a model with labels predicts no tokens; set objective.classify, or leave labels out"


def _text_problems(spec: TrainingRunSpec, pooling: str) -> Problems:
    """All rows have the same number of texts, and room for them; and a decoder's first token sees nothing else."""
    texts = {source.format.pair.texts for source in spec.data.sources if source.format.pair is not None}
    if len(texts) > 1:
        yield "spec.data.sources", "all rows must have the same number of texts; set the same format.pair.negatives"
    if max(texts, default=0) > spec.trainer.sequence_length:
        yield "spec.trainer.sequenceLength", f"a row holds {max(texts)} texts; raise it"
    if pooling == "cls" and not spec.model.encoder:
        yield "spec.objective.contrastive.pooling", "the first token of a decoder sees no other one; take last or mean"


def _masking_problems(spec: TrainingRunSpec) -> Problems:
    """A token that hides others, and nothing that only a decoder has."""
    if spec.tokenizer.tokenizer_json is None and spec.tokenizer.sentence_piece is None:
        bpe = spec.tokenizer.bpe
        if bpe is None or not {*bpe.special_tokens} & {*MASKS}:
            yield "spec.objective.maskedToken", NO_MASK
    if spec.data.attend_across_documents:
        yield (
            "spec.data.attendAcrossDocuments",
            "with objective.maskedToken a token would see padding too; leave it out",
        )
    for source in spec.data.sources:
        form = source.format
        if form.chat is not None or (form.prebuilt and form.prebuilt.weights_field is not None):
            yield (
                f"spec.data.sources[{source.name}].format",
                "objective.maskedToken hides tokens of the whole text; set format text, or prebuilt without "
                "weightsField",
            )


def _beside_problems(spec: TrainingRunSpec) -> Problems:
    """What a model that hears or sees cannot do."""
    trainer, data, hears = spec.trainer, spec.data, spec.model.sound is not None
    chats = [source for source in data.sources if hears or source.format.chat is not None]
    if not chats:
        return
    asked = {
        "spec.objective": hears and spec.objective.next_token is None,
        "spec.mesh.ici.context": spec.mesh and spec.mesh.ici.context != 1,
        "spec.data.attendAcrossDocuments": hears and data.attend_across_documents,
        "spec.data.order": data.order.windows or data.order.sequential,
        "spec.telemetry.sample": hears and spec.telemetry.sample,
    }
    for source in chats:
        asked[f"spec.data.sources[{source.name}].layout"] = source.layout.concatenate is None
    for number, entry in enumerate(trainer.batch_schedule):
        other = entry.sequence_length not in (None, trainer.sequence_length)
        asked[f"spec.trainer.batchSchedule[{number}].sequenceLength"] = other
    for field in (field for field, given in asked.items() if given):
        yield (
            field,
            "the family whisper predicts the next token of whole texts, one in a row, with a sound; leave it out"
            if hears
            else "with model.vision a conversation is whole, one in a row with its images; leave it out",
        )


def _row_problems(spec: TrainingRunSpec) -> Problems:
    """The objective itself lays out its sources, in rows of one length."""
    kind = spec.objective.kind
    for source in spec.data.sources:
        if source.layout.concatenate is None:
            yield (
                f"spec.data.sources[{source.name}].layout",
                f"objective.{kind} {_ROWS.get(kind, 'packs whole conversations by itself')}; leave layout out",
            )
    for number, entry in enumerate(spec.trainer.batch_schedule):
        if entry.sequence_length not in (None, spec.trainer.sequence_length):
            yield (
                f"spec.trainer.batchSchedule[{number}].sequenceLength",
                f"objective.{kind} has rows of one length; leave it out",
            )


def _policy_problems(spec: TrainingRunSpec, policy: PolicySpec) -> Problems:
    """A step has whole groups of answers, and a row has room for a prompt."""
    trainer, field = spec.trainer, "spec.objective.policy"
    if spec.task == "evaluate":
        yield (
            "spec.task",
            "with objective.policy only a run that trains samples answers; set trainer.evaluation in that run, or use "
            "`halcyon eval`",
        )
    if policy.max_tokens >= trainer.sequence_length:
        yield (
            f"{field}.maxTokens",
            f"an answer of {policy.max_tokens} tokens leaves no position for a prompt in a sequence of "
            f"{trainer.sequence_length}; lower it, or raise trainer.sequenceLength",
        )
    if spec.data.mixture.last_batch == "pad":
        yield (
            "spec.data.mixture.lastBatch",
            "with objective.policy every row is an answer, so a batch cannot be filled; leave it out",
        )
    for size in trainer.batch_sizes:
        if size % policy.group_size:
            yield (
                f"{field}.groupSize",
                f"{policy.group_size} must divide every batch size, and {size} is no multiple of it; the next one is "
                f"{-(-size // policy.group_size) * policy.group_size}",
            )
    divergence = spec.recovery.divergence
    goes_back = divergence.non_finite == "rollback" or (divergence.spike and divergence.spike.action == "rollback")
    for other, given in (
        ("updatesPerRollout", policy.has_sampler),
        ("recovery.divergence with rollback", goes_back),
    ):
        if policy.delay_steps and given:
            yield (
                f"{field}.delaySteps",
                f"the answers of the next steps are sampled already, so {other} has no effect on them; leave one out",
            )
    if (policy.has_pool and not policy.delay_steps) or (spec.task == "sample" and not policy.has_pool):
        yield (
            f"{field}.sampledBy",
            "samplers sample the answers of later steps, so a run with a pool, and task: sample, need sampledBy: "
            "samplers and delaySteps of at least 1",
        )
    built_in = policy.reward in ("gsm8k", "spellingBee")
    if policy.environment is not None and (built_in or not policy.delay_steps):
        yield (
            f"{field}.environment",
            "its words are kept with answers that are sampled ahead, so it needs delaySteps of at least 1, and as "
            "reward judge or a function, package.module:function",
        )
    if policy.reward == "judge" and policy.environment is None:
        yield f"{field}.reward", "judge asks another model; give environment.arguments with its url, or another reward"
    if policy.truncation is not None and not policy.truncates:
        yield f"{field}.truncation", "only a correction by token or sequence truncates; set it, or leave this out"
    if spec.task == "train" and policy.has_sampler and spec.origin and not spec.origin.takes_weights:
        yield (
            f"{field}.updatesPerRollout",
            "the run that this one goes on from has no weights that sample; begin with weights alone "
            "(from.weightsOnly: true), or leave it out",
        )


def _teacher_problems(spec: TrainingRunSpec, teacher: TeacherSpec) -> Problems:
    """A teacher is the only model beside the trained one, and reads the same inputs."""
    objective, field, origin = spec.objective, "spec.objective.teacher", spec.origin
    if objective.kind not in ("nextToken", "finetune", "policy"):
        yield field, f"objective.{objective.kind} has no distribution of each token; leave it out"
    if objective.policy is not None and objective.policy.beta:
        yield field, "policy.beta compares with another model already; leave one out"
    if (teacher.model.sound, teacher.model.sight) != (spec.model.sound, spec.model.sight):
        yield f"{field}.model", "it must hear and see what the trained model does; take a model with the same inputs"
    if spec.task == "train" and origin is not None and not origin.takes_weights:
        yield (
            "spec.from",
            "the run that this one goes on from has no teacher; begin with weights alone (weightsOnly: true)",
        )


def _reference_problems(spec: TrainingRunSpec, kind: str) -> Problems:
    """Such losses compare with the weights that the run begins with."""
    lora = spec.lora
    if spec.task == "train" and (spec.origin is None or not spec.origin.takes_weights):
        yield (
            "spec.from",
            f"objective.{kind} compares with the weights that the run begins with; name them: huggingFace, or a run "
            "with weightsOnly: true",
        )
    if lora and lora.train_also:
        yield (
            "spec.adapter.lora.trainAlso",
            f"objective.{kind} compares with the weights beside the adapter, so they must stay frozen; leave trainAlso "
            "out",
        )

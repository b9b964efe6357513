"""The ``TrainingRunDefaults`` resource: values of run fields for a namespace or for the whole cluster.

Its classes are created from those of the run, field by field, so that each type, bound and description is defined once.
"""

from typing import Annotated, Any, ClassVar, Literal, cast

from pydantic import ConfigDict, Field, StringConstraints, create_model, field_validator
from pydantic.alias_generators import to_camel
from pydantic.fields import FieldInfo

from halcyon_api.base import ApiModel, ObjectName, Rule, RuledModel, fields_by_name
from halcyon_api.defaults.units import UNITS, Values
from halcyon_api.edits.classes import section_of
from halcyon_api.reading import read_document
from halcyon_api.spec.variables import VariableSpec, each_once
from halcyon_api.training_run import TrainingRunSpec

KIND = "TrainingRunDefaults"
PLURAL = "trainingrundefaults"
SHORT_NAME = "trundef"

_PREFIX_PATTERN = (
    r"^(file://(/[A-Za-z0-9._=-]+)+|(s3|gs|az)://[a-z0-9][a-z0-9._-]{1,61}[a-z0-9](/[A-Za-z0-9._=-]+)*)/?$"
)


def _belongs(field: str) -> Rule:
    """The rule for a setting of a store that may have another endpoint."""
    return Rule(
        f"!has(self.{field}) || !has(self.rootPrefix) || self.rootPrefix.matches('^(s3|az)://')",
        f"{field} belongs to an s3:// or az:// rootPrefix; leave it out or change rootPrefix",
        f".{field}",
    )


class CheckpointPrefix(RuledModel):
    """Where the runs' checkpoints are kept and when they are made."""

    root_prefix: (
        Annotated[
            str,
            StringConstraints(max_length=900),
            Field(json_schema_extra={"pattern": _PREFIX_PATTERN}, pattern=_PREFIX_PATTERN),
        ]
        | None
    ) = None
    """Address for the roots of runs that set no `checkpoint.root`; each gets PREFIX/NAMESPACE/NAME. file:///PATH,
    s3://BUCKET, gs://BUCKET or az://ACCOUNT/CONTAINER, with or without a path."""

    rules: ClassVar = (
        Rule(
            "!has(self.rootPrefix) || !self.rootPrefix.split('/').exists(part, part == '..' || part == '.')",
            "rootPrefix must not contain `.` or `..` as a part of its path; write the address without them",
            ".rootPrefix",
        ),
        *(_belongs(field) for field in ("endpoint", "credentialsSecret")),
    )


def _part(source: type[ApiModel], path: str) -> type[ApiModel]:
    """The class with the fields of a run's section that are in the table. None is required and none has a default."""
    fields: dict[str, Any] = {}
    for name, info in source.model_fields.items():
        child = f"{path}.{info.alias or to_camel(name)}".removeprefix(".")
        section = section_of(info.annotation)
        if any(unit.path == child for unit in UNITS):
            annotation: Any = Annotated[info.annotation, *info.metadata] if info.metadata else info.annotation
            fields[name] = (annotation | None, _field(info))
        elif section is not None and any(unit.path.startswith(f"{child}.") for unit in UNITS):
            fields[name] = (_part(section, child) | None, _field(info))
    base = CheckpointPrefix if path == "checkpoint" else ApiModel
    title = (
        f"Defaults{''.join(part[0].upper() + part[1:] for part in path.split('.'))}"
        if path
        else "TrainingRunDefaultsSpec"
    )
    documented = base.__doc__ if path else source.__doc__
    checks = {} if path else {"each_variable_once": field_validator("env")(_each_once)}
    made = create_model(
        title, __base__=base, __doc__=documented, __module__=__name__, __validators__=checks, **cast("Any", fields)
    )
    made.fields_of = source
    return made


def _each_once(env: list[VariableSpec] | None) -> list[VariableSpec] | None:
    return None if env is None else each_once(env)


def _field(info: FieldInfo) -> Any:
    return Field(default=None, description=info.description, json_schema_extra=info.json_schema_extra)


TrainingRunDefaultsSpec: type[ApiModel] = _part(TrainingRunSpec, "")


def _built_in(path: str) -> Any:
    """The built-in default of a field of the run, as JSON; None if it has none."""
    *sections, field = path.split(".")
    model: type[ApiModel] = TrainingRunSpec
    for section in sections:
        model = section_of(fields_by_name(model)[section].annotation) or model
    value: Any = fields_by_name(model)[field].get_default(call_default_factory=True)
    return value.document() if isinstance(value, ApiModel) else value


BUILT_IN: Values = {unit.path: value for unit in UNITS if (value := _built_in(unit.path)) is not None}
"""Built-in defaults: values of fields that neither the run nor its defaults set."""


class DefaultsMeta(ApiModel):
    """The part of an object's metadata that Halcyon reads. Other fields are ignored."""

    model_config = ConfigDict(extra="ignore")

    name: ObjectName
    namespace: Annotated[str, StringConstraints(max_length=63)] = "default"
    generation: int = 0


class TrainingRunDefaults(ApiModel):
    """Values for fields that runs of its namespace do not set; in the operator's namespace, for runs everywhere."""

    api_version: Literal["halcyon.dev/v1alpha1"]
    """Version of this document's schema."""
    kind: Literal["TrainingRunDefaults"]
    """Kind of the document."""
    metadata: DefaultsMeta
    """Name and namespace of the defaults. A run without `spec.defaults` uses `default`."""
    spec: TrainingRunDefaultsSpec  # type: ignore[valid-type] # pyright: ignore[reportInvalidTypeForm]
    """The values, in the structure of a run's `spec`."""


def parse_defaults(document: Any) -> TrainingRunDefaults:
    """Check a parsed YAML or JSON document.

    Raises:
        InvalidRun: The document does not fit the schema.
    """
    return read_document(TrainingRunDefaults, document)

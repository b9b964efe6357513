"""The rules of the chart's `limits`: what a policy of the API server (ValidatingAdmissionPolicy) checks in each
namespace, in CEL.

The rules do not depend on the owner's lists: the chart's template writes each limit of a set as a variable of the
policy with the limit's name, such as ``variables.images``, and adds the rules of that limit. A field that an edit does
not change is not checked again, so that a run can always be suspended.
"""

from collections.abc import Iterator
from typing import Any

import yaml
from pydantic.alias_generators import to_camel

from halcyon_api.base import ApiModel, fields_by_name
from halcyon_api.defaults import resource
from halcyon_api.edits.classes import section_of
from halcyon_api.generate.crd import HEADER
from halcyon_api.spec.sources import DataSourceSpec
from halcyon_api.spec.tokenizer import TokenizerSpec
from halcyon_api.training_run import PLURAL, TrainingRun

Rules = dict[str, Any]
Check = dict[str, str]
"""A rule of a policy, with its message."""


class _Limits:
    """The limits of one kind of document."""

    def __init__(self, document: type[ApiModel]) -> None:
        self._document = document
        self._of_run = document is TrainingRun
        self._root = "checkpoint.root" if self._of_run else "checkpoint.rootPrefix"

    def all(self) -> Iterator[Rules]:
        """Each limit with the variables and the rules that it needs."""
        # The API server does not see which account the defaults of a run name.
        account = "'default'" if self._of_run else "''"
        named = self._in_list(
            "serviceAccounts", "scheduling.serviceAccountName", unset=account, optional=not self._of_run
        )
        yield _limit("serviceAccounts", named)
        begins = "(!VALUE.contains('..') && variables.images.exists(prefix, VALUE.startsWith(prefix)))"
        yield _limit(
            "images",
            self._rule(
                "image",
                f"VALUE == '' || {begins}",
                fix=_fix(
                    "images",
                    "take an image that begins with",
                    lead="leave it out for the trainer that belongs to the operator",
                ),
            ),
        )
        digest = "VALUE == '' || VALUE.contains('@sha256:')"
        yield _limit(
            "imageDigests",
            self._rule("image", digest, "must be given by its digest in", fix="', as NAME@sha256:DIGEST'"),
        )
        below = "(!(VALUE + '/').contains('/../') && variables.roots.exists(prefix, (VALUE + '/').startsWith(prefix)))"
        leads = {self._root: "", "data.cache.root": "leave it out for one below spec.checkpoint.root"}
        if self._of_run:
            # It is only read, but with the run's identity.
            leads["from.root"] = "leave it out for that of the run that spec.from names"
        fixes = {field: _fix("roots", "take an address below", lead=lead) for field, lead in leads.items()}
        yield _limit("roots", *(self._rule(field, f"VALUE == '' || {below}", fix=fix) for field, fix in fixes.items()))
        yield self._endpoints()
        classes = ("scheduling.priorityClassName", "scheduling.queue.priorityClass")
        yield _limit(
            "priorityClasses", *(self._in_list("priorityClasses", field, lead="leave it out") for field in classes)
        )
        if self._of_run:
            types = self._in_list("types", "accelerator.type", optional=False)
            yield _limit("types", types, _other("type", "VALUE in variables.types", _fix("types", "take")))
            fix = "'; take at most ' + string(variables.slices)"
            most = map(self._at_most, ("accelerator.slices", "recovery.elastic.maxSlices"))
            yield _limit("slices", *most, _other("slices", "VALUE <= variables.slices", fix))
            within = "(VALUE > 0.0 && VALUE <= double(variables.chipHours))"
            most = "'; set at most ' + string(variables.chipHours)"
            yield _limit("chipHours", self._rule("budget.chipHours", within, unset="0.0", fix=most))
            allowed = "variables.gpuDirect || VALUE != 'gpuDirect'"
            yield _limit(
                "gpuDirect", self._rule("accelerator.network", allowed, unset="'standard'", fix="'; leave it out'")
            )
            yield self._sources()

    def _rule(
        self,
        field: str,
        holds: str,
        refusal: str = "is not allowed in",
        *,
        fix: str,
        unset: str = "''",
        unchanged: str = "OLD == VALUE",
    ) -> Check:
        """The rule of a field. In expressions VALUE stands for the value of the field, OLD for that before the edit."""
        new, old = (self._value(document, field, unset) for document in ("object", "oldObject"))
        expression = f"{holds} || (request.operation == 'UPDATE' && {unchanged})".replace("VALUE", new).replace(
            "OLD", old
        )
        return _rule(expression, f"spec.{field}", f"string({new})", fix, refusal)

    def _in_list(self, limit: str, field: str, *, unset: str = "''", optional: bool = True, lead: str = "") -> Check:
        """The rule that a field has a value of a list."""
        holds = f"VALUE in variables.{limit}"
        return self._rule(
            field, f"VALUE == '' || {holds}" if optional else holds, unset=unset, fix=_fix(limit, "take", lead=lead)
        )

    def _at_most(self, field: str) -> Check:
        fix = "' may have; take fewer'"
        refusal = "is above the ' + string(variables.slices) + ' that a run in"
        return self._rule(field, "VALUE <= variables.slices", refusal, unset="1", fix=fix, unchanged="OLD >= VALUE")

    def _endpoints(self) -> Rules:
        """A bucket's name alone does not identify its store. The endpoint of a document with an s3:// address and
        without an endpoint is ``aws``; it is empty if there is neither, because then the address comes from defaults,
        which have been checked themselves."""

        def endpoint(document: str) -> str:
            roots = ", ".join(self._value(document, field) for field in (self._root, "data.cache.root"))
            derived = f"[{roots}].exists(address, address.startsWith('s3://')) ? 'aws' : ''"
            return self._value(document, "checkpoint.endpoint", derived)

        value, aws = "variables.endpoint", "none, which is AWS"
        holds = (
            f"{value} == '' || {value} in variables.endpoints || (request.operation == 'UPDATE' && {value} == "
            f"({endpoint('oldObject')}))"
        )
        names = f"variables.endpoints.map(entry, entry == 'aws' ? '{aws}' : entry)"
        fix = _fix("endpoints", "take", none="no s3:// address is", names=names)
        rule = _rule(holds, "spec.checkpoint.endpoint", f"({value} == 'aws' ? '{aws},' : {value})", fix)
        return _limit("endpoints", rule, endpoint=endpoint("object"))

    def _sources(self) -> Rules:
        """The pods of a run read these addresses with their identity. Paths without a scheme are not limited: they are
        files of the pod, in its image or in volumes that the run names."""
        foreign = (
            "variables.reads.map(read, {'field': read.field, 'addresses': dyn(read.addresses.filter(address, "
            "address.contains('://') && !address.startsWith('file://') && ((address + '/').contains('/../') || "
            "!variables.sources.exists(prefix, (address + '/').startsWith(prefix)))))}).filter(read, "
            "read.addresses.size() > 0)"
        )
        holds = (
            "variables.foreign.size() == 0 || (request.operation == 'UPDATE' && variables.reads == "
            f"{_reads('oldObject')})"
        )
        fix = _fix("sources", "an address below", lead="take a file of the image or of a volume")
        first = "variables.foreign[0]"
        rule = _rule(
            holds,
            "an address in spec.data.sources or spec.tokenizer",
            f"{first}.addresses[0]",
            fix,
            name=f"{first}.field",
        )
        return _limit("sources", rule, reads=_reads("object"), foreign=foreign)

    def _value(self, document: str, field: str, unset: str = "''") -> str:
        """The value of a field of the spec as an expression."""
        section: type[ApiModel] | None = self._document
        names = ("spec", *field.split("."))
        for name in names:
            section = section_of(fields_by_name(section or ApiModel)[name].annotation)
        return f"{document}.{'.?'.join(names)}.orValue({unset})"


def _limit(limit: str, *rules: Check, **variables: str) -> Rules:
    named = [{"name": name, "expression": expression} for name, expression in variables.items()]
    return {"limit": limit, "variables": named, "validations": list(rules)}


def _rule(
    expression: str, field: str, value: str, fix: str, refusal: str = "is not allowed in", name: str = ""
) -> Check:
    """A rule with its message.

    `value`, `fix` and `name`, that of the field if it is only known from the document, are expressions.
    """
    return {
        "expression": expression,
        "reason": "Forbidden",
        "message": f"{field} is not allowed in this namespace",
        "messageExpression": f"{name or repr(field)} + ': ' + {value} + ' {refusal} namespace ' + "
        f"request.namespace + {fix}",
    }


def _other(field: str, holds: str, fix: str) -> Check:
    """The rule of a field of the hardware of all other rows."""
    rows = "object.spec.?place.?otherwise.orValue([])"
    wrong = f"{rows}.filter(row, !({holds.replace('VALUE', f'row.accelerator.{field}')}))"
    unchanged = f"request.operation == 'UPDATE' && {rows} == {rows.replace('object', 'oldObject')}"
    value = f"string({wrong}[0].accelerator.{field})"
    return _rule(f"{wrong}.size() == 0 || ({unchanged})", f"spec.place.otherwise.accelerator.{field}", value, fix)


def _fix(limit: str, take: str, *, lead: str = "", none: str = "none is", names: str = "") -> str:
    """The end of a message, with the allowed values. `lead` is the alternative to a value."""
    entries = f"variables.{limit}"
    taken = f"'{take} ' + {names or entries}.join(' or ')"
    if lead:
        return f"'; {lead}' + ({entries}.size() > 0 ? ', or ' + {taken} : '')"
    return f"'; ' + ({entries}.size() > 0 ? {taken} : '{none}')"


def _reads(document: str) -> str:
    """The addresses of a run's data and tokenizer, by field, as an expression."""
    kinds = {
        to_camel(kind): section_of(DataSourceSpec.model_fields[kind].annotation) for kind in DataSourceSpec.kinds()
    }
    files = [
        f"source.?{name}.?paths.orValue([])"
        for name, kind in kinds.items()
        if kind is not None and "paths" in kind.model_fields
    ]
    files.append("source.?huggingFace.?dataset.optMap(name, ['hf://datasets/' + name]).orValue([])")
    sources = (
        f"{document}.spec.?data.?sources.orValue([]).map(source, "
        f"{{'field': dyn('spec.data.sources[' + source.name + ']'), 'addresses': dyn({' + '.join(files)})}})"
    )
    tokenizers = {
        to_camel(kind): section_of(TokenizerSpec.model_fields[kind].annotation) for kind in TokenizerSpec.kinds()
    }
    read = [
        f"{{'field': dyn('spec.tokenizer.{name}.path'), 'addresses': "
        f"dyn([{document}.spec.?tokenizer.?{name}.?path.orValue('')])}}"
        for name, kind in tokenizers.items()
        if kind is not None and "path" in kind.model_fields
    ]
    return f"({sources} + [{', '.join(read)}])"


def render() -> str:
    """The text of the chart's file: the limits of each kind of document, in the order of the rules."""
    found = {PLURAL: TrainingRun, resource.PLURAL: resource.TrainingRunDefaults}
    rules = {plural: list(_Limits(document).all()) for plural, document in found.items()}
    return HEADER + yaml.safe_dump(rules, sort_keys=False, width=140, allow_unicode=True)

"""The fields of a row that a format reads. Other columns of a columnar file are not fetched."""

from __future__ import annotations

from halcyon_api.spec.sources import FormatSpec


def needed_fields(spec: FormatSpec) -> tuple[str, ...]:
    """The fields that a format reads, in a fixed order."""
    if spec.text is not None:
        return (spec.text.field,)
    if spec.chat is not None:
        return (spec.chat.messages_field, *((spec.chat.tools_field,) if spec.chat.tools_field else ()))
    if spec.preference is not None:
        return (spec.preference.chosen_field, spec.preference.rejected_field)
    if spec.prompt is not None:
        return (spec.prompt.field, *((spec.prompt.reference_field,) if spec.prompt.reference_field else ()))
    if spec.prebuilt is not None:
        return (spec.prebuilt.tokens_field, *((spec.prebuilt.weights_field,) if spec.prebuilt.weights_field else ()))
    raise TypeError(f"no format of kind {spec.kind}")

"""The common part of the sections of a spec."""

from __future__ import annotations

from typing import Any, ClassVar, get_args

from pydantic import (
    BaseModel,
    ConfigDict,
    SerializerFunctionWrapHandler,
    ValidationInfo,
    field_validator,
    model_serializer,
)

from eatnas_db.domain.plain_scalars import PlainScalar, plain_values


class SpecSection(BaseModel):
    """A section of the spec.

    Unknown keys are errors, and a string field keeps the YAML spelling of a number or boolean.
    """

    # Set `allow_inf_nan`, because range checks alone do not reject YAML's .nan and .inf in every field.
    model_config = ConfigDict(extra="forbid", frozen=True, strict=False, allow_inf_nan=False)

    stored_if_set: ClassVar[frozenset[str]] = frozenset()
    """Fields that the stored spec leaves out at their defaults, so that older specs are stored as before."""

    @model_serializer(mode="wrap")
    def _leave_out_defaults(self, serialize: SerializerFunctionWrapHandler) -> dict[str, Any]:
        fields: dict[str, Any] = serialize(self)
        known = type(self).model_fields
        unset = {name for name in self.stored_if_set if getattr(self, name) == known[name].default}
        aliases = {name: field.alias for name, field in known.items() if field.alias is not None}
        # Pydantic serializes a nested section by its field names. If a key is a Python keyword, its field has a
        # different name.
        return {aliases.get(name, name): value for name, value in fields.items() if name not in unset}

    @classmethod
    def keys(cls) -> list[str]:
        """Return the keys of the section as a spec writes them."""
        return [field.alias or name for name, field in cls.model_fields.items()]

    @field_validator("*", mode="before")
    @classmethod
    def _convert_scalar(cls, value: Any, info: ValidationInfo) -> Any:
        if info.field_name is not None and isinstance(value, PlainScalar):
            annotation = cls.model_fields[info.field_name].annotation
            if str in (annotation, *get_args(annotation)):  # a string field keeps the spelling, such as 010
                return value.text
        if not isinstance(value, dict):  # a nested section converts its own values
            value = plain_values(value)
        is_flag = info.field_name is not None and cls.model_fields[info.field_name].annotation is bool
        listed = value if isinstance(value, list | tuple) else [value]
        if any(isinstance(item, bool) for item in listed) and not is_flag:  # otherwise `true` would count as 1
            raise ValueError("a boolean (true, false) is not allowed here")
        return value

"""Walks the fields of the API models, for error messages and for the generated documentation."""

from collections.abc import Iterator
from typing import Any, get_args

from pydantic import BaseModel
from pydantic.fields import FieldInfo


def fields_of(model: type[BaseModel]) -> dict[str, FieldInfo]:
    """Return the fields of `model` under the names that users write."""
    return {info.alias or name: info for name, info in model.model_fields.items()}


def model_in(annotation: Any) -> type[BaseModel] | None:
    """Return the model in `annotation`, be it optional or in a list, or None."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    found = (model_in(argument) for argument in get_args(annotation))
    return next((model for model in found if model is not None), None)


def is_list(info: FieldInfo) -> bool:
    """Say whether the field holds a list."""
    annotations = (info.annotation, *get_args(info.annotation))
    return any(getattr(each, "__origin__", None) is tuple for each in annotations)


def walk(model: type[BaseModel], prefix: str = "") -> Iterator[tuple[str, FieldInfo]]:
    """Yield every field below `model` as its dotted path (`spec.roles[].min`), parents first."""
    for name, info in fields_of(model).items():
        path = f"{prefix}.{name}" if prefix else name
        path += "[]" if is_list(info) else ""
        yield path, info
        inner = model_in(info.annotation)
        if inner is not None:
            yield from walk(inner, path)


def model_at(model: type[BaseModel], location: tuple[str | int, ...]) -> type[BaseModel] | None:
    """Return the model that the value at `location` below `model` should be, or None."""
    current: type[BaseModel] | None = model
    for part in location:
        if isinstance(part, int):
            continue
        info = fields_of(current).get(part) if current is not None else None
        current = model_in(info.annotation) if info is not None else None
    return current

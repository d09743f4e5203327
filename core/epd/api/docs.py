"""The field tables of `docs/api.md`, made from the models' JSON schema."""

import json
from collections.abc import Iterator
from typing import Any, Final

from epd.api.patterns import MEANINGS
from epd.api.v1alpha1 import EPDCluster

Schema = dict[str, Any]

BEGIN: Final = "<!-- field tables: begin (made by hack/gen_docs.py, not by hand) -->"
END: Final = "<!-- field tables: end -->"


def with_field_tables(page: str) -> str:
    """Return `page` with what lies between its two marks replaced by today's tables.

    Raises:
        ValueError: A mark is missing.
    """
    return between(page, BEGIN, END, field_tables())


def between(page: str, begin: str, end: str, text: str) -> str:
    """Return `page` with `text` in the place of what lies between two marks.

    Raises:
        ValueError: A mark is missing.
    """
    before, opened, rest = page.partition(begin)
    _, closed, after = rest.partition(end)
    if not opened or not closed:
        raise ValueError(f"the page lacks its marks {begin!r} and {end!r}")
    return f"{before}{begin}\n\n{text}\n{end}{after}"


def field_tables() -> str:
    """Return one Markdown table per object of an `EPDCluster`, parents first."""
    schema = EPDCluster.model_json_schema(by_alias=True)
    return "\n".join(_tables("", schema, schema["$defs"]))


def _tables(path: str, model: Schema, definitions: Schema) -> Iterator[str]:
    yield f"### `{path or EPDCluster.__name__}`\n"
    yield f"{_one_line(model['description'])}\n"
    yield "| field | type | default | allowed | meaning |"
    yield "|---|---|---|---|---|"
    fields = {
        name: _resolved(declared, definitions) for name, declared in model["properties"].items()
    }
    for name, field in fields.items():
        default = "required" if name in model.get("required", ()) else _default(field)
        meaning = _one_line(field["description"])
        cells = (f"`{name}`", _type(field), default, _allowed(field), meaning)
        yield "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"
    yield ""
    for name, field in fields.items():
        below = f"{path}.{name}" if path else name
        inner, inner_path = (field["items"], f"{below}[]") if "items" in field else (field, below)
        if "properties" in inner:
            yield from _tables(inner_path, inner, definitions)


def _resolved(declared: Schema, definitions: Schema) -> Schema:
    """Return a field's schema without references and without `null` among its types.

    What the field says itself, such as its description, goes before what its type says.
    """
    merged = dict(declared)
    for choice in merged.pop("anyOf", ()):
        if choice != {"type": "null"}:
            merged = choice | merged
    reference = merged.pop("$ref", None)
    if reference is not None:
        merged = definitions[reference.rpartition("/")[2]] | merged
    if "items" in merged:
        merged["items"] = _resolved(merged["items"], definitions)
    return merged


def _type(field: Schema) -> str:
    if field["type"] == "array":
        return f"list of {field['items']['type']}s"
    return str(field["type"])


def _default(field: Schema) -> str:
    default = field.get("default")
    if default is None:
        return "none"
    if isinstance(default, dict):
        return "its defaults"
    return f"`{default}`" if isinstance(default, str) else f"`{json.dumps(default)}`"


def _allowed(field: Schema) -> str:
    words = field.get("enum") or ([field["const"]] if "const" in field else [])
    parts = [", ".join(f"`{word}`" for word in words)] if words else []
    if "minimum" in field:
        most = f"{field['minimum']} to {field['maximum']}" if "maximum" in field else None
        parts.append(most or f"at least {field['minimum']}")
    if "maxLength" in field:
        parts.append(f"at most {field['maxLength']} characters")
    if "pattern" in field:
        parts.append(MEANINGS[field["pattern"]])
    entries = field.get("maxItems") or field.get("maxProperties")
    if entries is not None:
        parts.append(f"at most {entries} entries")
    each = _allowed(field["items"]) if "items" in field else ""
    return "; ".join([*parts, f"each: {each}"] if each else parts)


def _one_line(text: str) -> str:
    return " ".join(text.split())

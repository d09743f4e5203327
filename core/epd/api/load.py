"""Reads an `EPDCluster` from YAML, and writes it back.

YAML is read as Kubernetes' own tools read it, except where they guess: a key given twice, a second
document, and what JSON cannot hold are errors, and `1:30` or `2026-11-21` are strings.
"""

import json
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Final

import yaml
from pydantic import ValidationError

from epd.api.base import Location
from epd.api.problems import WHOLE_MANIFEST, ClusterError, Problem, path_text, problems_of
from epd.api.v1alpha1 import EPDCluster

MAX_MANIFEST_BYTES: Final = 1 << 20
"""Largest manifest that is read; Kubernetes stores no larger object either."""

MAX_VALUES: Final = 20_000
"""Most values a manifest may have once its YAML aliases are spelt out."""

MAX_DEPTH: Final = 64


def load_cluster(path_or_text: Path | str) -> EPDCluster:
    """Return the cluster in a file, or in YAML text; a string with a line break is text.

    Raises:
        ClusterError: The file cannot be read, is not YAML, or is not a valid `EPDCluster`.
    """
    if isinstance(path_or_text, str) and "\n" in path_or_text:
        return parse_cluster(path_or_text)
    source = str(path_or_text)
    try:
        with Path(path_or_text).open("rb") as file:
            content = file.read(MAX_MANIFEST_BYTES + 1)
        text = content.decode("utf-8-sig")
    except OSError as error:
        reason = f"cannot be read: {error.strerror or error}"
    except ValueError:
        reason = "is not a text file in UTF-8"
    else:
        return parse_cluster(text, source)
    raise ClusterError(source, [Problem(WHOLE_MANIFEST, reason)])


def parse_cluster(text: str, source: str = "manifest") -> EPDCluster:
    """Return the cluster in YAML `text`; `source` names it in errors.

    Raises:
        ClusterError: It is not YAML, or not a valid `EPDCluster`.
    """
    if len(text) > MAX_MANIFEST_BYTES:
        reason = f"is larger than {MAX_MANIFEST_BYTES} bytes"
        raise ClusterError(source, [Problem(WHOLE_MANIFEST, reason)])
    try:
        documents = list(yaml.load_all(text, Loader=_Loader))
    except yaml.MarkedYAMLError as error:
        raise ClusterError(source, [_yaml_problem(error)]) from None
    except RecursionError:
        raise ClusterError(source, [Problem(WHOLE_MANIFEST, "is nested too deeply")]) from None
    except yaml.YAMLError as error:
        reason = f"not YAML: {str(error).splitlines()[0]}"
        raise ClusterError(source, [Problem(WHOLE_MANIFEST, reason)]) from None
    except (LookupError, ValueError):
        # PyYAML's constructors of scalars take it that the pattern of the tag has matched.
        reason = "not YAML: a value does not fit its tag, as in `!!int x`"
        raise ClusterError(source, [Problem(WHOLE_MANIFEST, reason)]) from None
    documents = [document for document in documents if document is not None]
    if len(documents) != 1:
        reason = (
            f"holds {len(documents)} documents; put one EPDCluster in a file"
            if documents
            else "is empty; an EPDCluster is expected"
        )
        raise ClusterError(source, [Problem(WHOLE_MANIFEST, reason)])
    return validate_cluster(documents[0], source)


def validate_cluster(manifest: object, source: str = "manifest") -> EPDCluster:
    """Return the cluster in plain data, such as Kubernetes' API answers with.

    Raises:
        ClusterError: It is not a valid `EPDCluster`.
    """
    problem = _unfit_for_json(manifest)
    if problem is not None:
        raise ClusterError(source, [problem])
    try:
        return EPDCluster.model_validate_json(json.dumps(manifest), by_name=False)
    except ValidationError as error:
        raise ClusterError(source, problems_of(error, EPDCluster)) from None


def manifest_of(cluster: EPDCluster) -> dict[str, Any]:
    """Return `cluster` as plain data, defaults spelt out, absent fields left out."""
    return cluster.model_dump(mode="json", exclude_none=True)


def dump_cluster(cluster: EPDCluster) -> str:
    """Return `cluster` as YAML that `parse_cluster` turns back into an equal cluster."""
    return yaml.safe_dump(manifest_of(cluster), sort_keys=False)


def _unfit_for_json(manifest: object) -> Problem | None:
    """Look for what JSON cannot hold, counting values so that aliases cannot blow up."""
    values = 0
    pending: list[tuple[Location, object]] = [((), manifest)]
    while pending:
        location, value = pending.pop()
        values += 1
        if values > MAX_VALUES or len(location) > MAX_DEPTH:
            reason = f"has more than {MAX_VALUES} values or is nested deeper than {MAX_DEPTH}"
            return Problem(WHOLE_MANIFEST, reason)
        if isinstance(value, Mapping):
            for key, child in value.items():
                if not isinstance(key, str):
                    reason = f"the key {key!r} is not a string; put it in quotes"
                    return Problem(path_text(location), reason)
                pending.append(((*location, key), child))
        elif isinstance(value, list):
            pending.extend(((*location, index), child) for index, child in enumerate(value))
        elif not _is_json_scalar(value):
            return Problem(path_text(location), f"{value!r} has no place in a manifest")
    return None


def _is_json_scalar(value: object) -> bool:
    if isinstance(value, float):
        return math.isfinite(value)
    return value is None or isinstance(value, str | bool | int)


def _yaml_problem(error: yaml.MarkedYAMLError) -> Problem:
    mark = error.problem_mark or error.context_mark
    where = f"line {mark.line + 1}, column {mark.column + 1}" if mark else WHOLE_MANIFEST
    return Problem(where, f"not YAML: {error.problem or error.context}")


_TAG = "tag:yaml.org,2002:"
_READ_AS_IS = frozenset({f"{_TAG}bool", f"{_TAG}null"})
_READABLE = _READ_AS_IS | {f"{_TAG}{name}" for name in ("int", "float", "str", "seq", "map")}


class _Loader(yaml.SafeLoader):
    """PyYAML's safe loader, cut down to JSON's types; a key given twice is an error.

    Every scalar read as something other than a string here is one that PyYAML's dumper quotes
    where a string is meant: else a dumped cluster would be read back as another.
    """

    yaml_constructors: ClassVar = {
        tag: construct
        for tag, construct in yaml.SafeLoader.yaml_constructors.items()
        if tag is None or tag in _READABLE
    }

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """Return the mapping of `node`, once sure that nothing in it would be lost silently."""
        seen: set[object] = set()
        for key_node, _ in node.value:
            key = key_node.value if isinstance(key_node, yaml.ScalarNode) else key_node
            fault = None
            if key == "<<" and key_node.style is None:
                fault = "merge keys are not read"
            elif key in seen:
                fault = f"the key {key!r} comes twice"
            if fault is not None:
                raise yaml.constructor.ConstructorError(None, None, fault, key_node.start_mark)
            seen.add(key)
        return super().construct_mapping(node, deep)


_Loader.yaml_implicit_resolvers = {
    first: [entry for entry in entries if entry[0] in _READ_AS_IS]
    for first, entries in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver(
    f"{_TAG}int",
    re.compile(r"^[-+]?(?:0|[1-9][0-9]*|0[0-7]+|0x[0-9a-fA-F]+)$"),
    list("-+0123456789"),
)
_Loader.add_implicit_resolver(
    f"{_TAG}float",
    re.compile(r"^[-+]?(?:[0-9]+\.[0-9]*|\.[0-9]+)(?:[eE][-+][0-9]+)?$"),
    list("-+.0123456789"),
)

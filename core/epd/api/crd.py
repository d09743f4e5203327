"""The CustomResourceDefinition of `EPDCluster`, made from the models.

pydantic's JSON schema becomes a structural one, as Kubernetes asks: nothing by reference, no `null`
among the types, defaults spelt out, the type of every list said,
and the rules across fields of `epd.api.cel`.
"""

from typing import Any, Final

import yaml

from epd.api.cel import RULES, Rule
from epd.api.meta import ObjectMeta
from epd.api.v1alpha1 import EPDCluster
from epd.vocabulary import API_GROUP, API_VERSION_NAME, KIND, PLURAL

Schema = dict[str, Any]

FILE_NAME: Final = f"{API_GROUP}_{PLURAL}.yaml"
HEADER: Final = "# Made by hack/gen_crds.py from core/epd/api, not by hand.\n"
MAX_BYTES: Final = 64 << 10
"""Largest definition we allow ourselves: it must fit an annotation of `kubectl apply` with ease."""

_INT32_MAX: Final = 2**31 - 1
# What JSON Schema says and a structural schema has no place for.
_DROPPED: Final = ("title", "additionalProperties", "default")
_KEPT_LISTS: Final = "x-kubernetes-list-type"


def crd() -> dict[str, Any]:
    """Return the CustomResourceDefinition as plain data."""
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{PLURAL}.{API_GROUP}"},
        "spec": {
            "group": API_GROUP,
            "scope": "Namespaced",
            "names": {
                "kind": KIND,
                "listKind": f"{KIND}List",
                "plural": PLURAL,
                "singular": KIND.lower(),
                "shortNames": ["epd"],
                "categories": ["all"],
            },
            "versions": [
                {
                    "name": API_VERSION_NAME,
                    "served": True,
                    "storage": True,
                    "schema": {"openAPIV3Schema": root_schema()},
                    "subresources": {
                        "status": {},
                        "scale": {
                            "specReplicasPath": ".spec.replicas",
                            "statusReplicasPath": ".status.replicas",
                            "labelSelectorPath": ".status.selector",
                        },
                    },
                    "additionalPrinterColumns": _columns(),
                }
            ],
        },
    }


def crd_text() -> str:
    """Return the file in `crds/`."""
    dumped = yaml.safe_dump(crd(), sort_keys=False, width=100, allow_unicode=False)
    return f"{HEADER}{dumped}"


def root_schema() -> Schema:
    """Return the structural schema of an `EPDCluster`."""
    schema = EPDCluster.model_json_schema(by_alias=True)
    root = _structural({"$ref": f"#/$defs/{KIND}"}, {**schema["$defs"], KIND: schema})
    # All that a definition may say of metadata is how the name looks; the rest is Kubernetes' own.
    name = _structural(ObjectMeta.model_json_schema(by_alias=True)["properties"]["name"], {})
    root["properties"]["metadata"] = {"type": "object", "properties": {"name": name}}
    for field in ("apiVersion", "kind"):
        root["properties"][field].pop("enum")
    root["required"] = ["spec"]
    return root


def _structural(declared: Schema, definitions: dict[str, Schema]) -> Schema:
    """Return `declared` without what a structural schema has no place for."""
    schema, model = _resolved(declared, definitions)
    made: Schema = {
        key: value
        for key, value in schema.items()
        if key not in (*_DROPPED, "properties", "items", "const", "$defs")
    }
    if "const" in schema:
        made["enum"] = [schema["const"]]
    if schema.get("type") == "integer":
        narrow = schema.get("maximum", _INT32_MAX + 1) <= _INT32_MAX
        made["format"] = "int32" if narrow else "int64"
    if schema.get("type") == "array":
        made.setdefault(_KEPT_LISTS, "atomic")
        made["items"] = _structural(schema["items"], definitions)
    if "properties" in schema:
        made["properties"] = {
            name: _with_rules(f"{model}.{name}", _structural(field, definitions))
            for name, field in schema["properties"].items()
        }
        _add_rules(made, RULES.get(model, ()))
    if schema.get("default") is not None:
        made["default"] = _defaults(made) if "properties" in made else schema["default"]
    if "description" in made:
        made["description"] = " ".join(made["description"].split())
    return made


def _defaults(made: Schema) -> Schema:
    """Return an object that is all defaults: rules are tried on it before it is filled in."""
    fields = made["properties"].items()
    return {name: field["default"] for name, field in fields if "default" in field}


def _resolved(declared: Schema, definitions: dict[str, Schema]) -> tuple[Schema, str]:
    """Return a schema without reference and `null`, and the name of the model it came from."""
    schema = dict(declared)
    for choice in schema.pop("anyOf", ()):
        if choice != {"type": "null"}:
            schema = choice | schema
    reference = schema.pop("$ref", None)
    if reference is None:
        return schema, ""
    model = reference.rpartition("/")[2]
    return definitions[model] | schema, model


def _with_rules(place: str, schema: Schema) -> Schema:
    _add_rules(schema, RULES.get(place, ()))
    if "items" in schema:
        _add_rules(schema["items"], RULES.get(f"{place}[]", ()))
    return schema


def _add_rules(schema: Schema, rules: tuple[Rule, ...]) -> None:
    if rules:
        schema["x-kubernetes-validations"] = [rule.manifest for rule in rules]


def _columns() -> list[dict[str, Any]]:
    """Return what `kubectl get` shows, and with priority 1 what `-o wide` adds."""

    def column(name: str, path: str, kind: str = "string", priority: int = 0) -> dict[str, Any]:
        wide = {"priority": priority} if priority else {}
        return {"name": name, "type": kind, "jsonPath": path, **wide}

    def condition(kind: str, field: str = "status") -> str:
        return f'.status.conditions[?(@.type=="{kind}")].{field}'

    def pods(role: str) -> str:
        return f'.status.roles[?(@.name=="{role}")].ready'

    return [
        column("Method", ".spec.method"),
        column("Replicas", ".spec.replicas", "integer"),
        column("Ready", condition("Ready")),
        column("Encode", pods("Encode"), "integer"),
        column("Prefill", pods("Prefill"), "integer"),
        column("Decode", pods("Decode"), "integer"),
        column("SLO met", condition("SLOMet")),
        column("Age", ".metadata.creationTimestamp", "date"),
        column("Encode-Prefill", pods("EncodePrefill"), "integer", 1),
        column("Encode-Decode", pods("EncodeDecode"), "integer", 1),
        column("All stages", pods("EncodePrefillDecode"), "integer", 1),
        column("Model", ".spec.model.source", priority=1),
        column("Reason", condition("Ready", "reason"), priority=1),
    ]

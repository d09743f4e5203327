"""The rules across fields, in the language of the API server (CEL).

What the models refuse in Python by looking at several fields, the API server refuses by these, with
the same words where CEL can say them. `tests/integration/test_crd.py` holds the two together.
Defaults are filled in before rules are looked at, so a field with a default is always there.
"""

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Final

from epd.api import model
from epd.api.names import VLLM_FLAGS_WE_SET, EngineType, MethodName, RoleName
from epd.api.patterns import SPACES
from epd.vocabulary import Method


@dataclass(frozen=True, slots=True)
class Rule:
    """One `x-kubernetes-validations` entry.

    Attributes:
        rule: What must hold of `self`.
        message: What the user reads where it does not; one of the two is enough.
        message_expression: The same as an expression, for messages with values in them.
        field: The field below `self` that the error names; empty for `self` itself.
    """

    rule: str
    message: str = ""
    message_expression: str = ""
    field: str = ""

    @property
    def manifest(self) -> dict[str, Any]:
        """The entry as a CRD has it."""
        entry = {
            "rule": self.rule,
            "message": self.message,
            "messageExpression": self.message_expression,
            "fieldPath": f".{self.field}" if self.field else "",
        }
        return {key: value for key, value in entry.items() if value}


def _words(values: Iterable[str]) -> str:
    return f"[{', '.join(json.dumps(value) for value in values)}]"


def _fixed(why: str) -> Rule:
    return Rule("self == oldSelf", f"cannot be changed: {why}; make a second EPDCluster instead")


# --- spec.model --------------------------------------------------------------------------------


def _source_rules() -> Iterator[Rule]:
    forms = (
        (model.CLAIM_SCHEME, model.CLAIM_SOURCE, model.CLAIM_EXPECTED),
        (model.IMAGE_SCHEME, model.IMAGE_SOURCE, model.IMAGE_EXPECTED),
    )
    for scheme, pattern, expected in forms:
        fits = f"self.matches({json.dumps(pattern)})"
        yield Rule(f"!self.startsWith({json.dumps(scheme)}) || {fits}", expected)
    known = " || ".join(f"self.startsWith({json.dumps(scheme)})" for scheme, _, _ in forms)
    has_none = f"!self.contains({json.dumps(model.SCHEME_MARK)})"
    yield Rule(f"{has_none} || {known}", model.SCHEME_EXPECTED)


def _hub_rules() -> Iterator[Rule]:
    mounted = "self.source.startsWith('pvc://') || self.source.startsWith('oci://')"
    for field in ("revision", "tokenSecretRef"):
        message = "is for a model on the hub, which pvc:// and oci:// are not; remove it"
        yield Rule(f"!has(self.{field}) || !({mounted})", message, field=field)


def _cache_rules() -> Iterator[Rule]:
    for kind, field in (("Claim", "claimName"), ("Node", "nodeFolder")):
        required = f"is required with type {kind}"
        yield Rule(f"self.type != '{kind}' || has(self.{field})", required, field=field)
        foreign = f"belongs to type {kind}; remove it or set type: {kind}"
        yield Rule(f"self.type == '{kind}' || !has(self.{field})", foreign, field=field)


# --- spec.engine -------------------------------------------------------------------------------


def _engine_rules() -> Iterator[Rule]:
    simulated = f"self.type == '{EngineType.SIMULATED}'"
    yield Rule(
        f"!({simulated}) || !has(self.image)",
        "type Simulated runs the release's own image; remove image",
        field="image",
    )
    yield Rule(
        f"!({simulated}) || self.args.size() == 0",
        "type Simulated takes no vLLM flags; remove args or set type: VLLM",
        field="args",
    )
    yield Rule(
        f"{simulated} || !has(self.simulated)",
        "belongs to type Simulated; remove it or set type: Simulated",
        field="simulated",
    )
    yield Rule(
        "self.args.size() == 0 || self.args[0].startsWith('-')",
        "the first item is a value without a flag before it; flags begin with --",
        field="args",
    )


def _arg_rules() -> Iterator[Rule]:
    flags_of: dict[str, list[str]] = {}
    for flag, decided_by in VLLM_FLAGS_WE_SET.items():
        flags_of.setdefault(decided_by, []).append(flag)
    for decided_by, flags in flags_of.items():
        forms = "|".join(re.sub("[-_]", "[-_]", flag) for flag in flags)
        message = f"{' and '.join(flags)}: decided by {decided_by}; remove it here"
        yield Rule(f"!self.matches({json.dumps(f'^({forms})(=|$)')})", message)
    yield Rule(
        f"!self.matches({json.dumps(f'^--[^=]*[{SPACES}]')})",
        "a flag and its value are one item; write --flag=value or two items",
    )


# --- the split ---------------------------------------------------------------------------------


# One rule per method, spelt out: the API server must be able to tell beforehand what a rule costs,
# and gives up at a lookup.

_LEAST: Final = "self.roles.map(r, r.min).sum() + {count} - self.roles.size() <= self.replicas"
"""A role of the method that is not listed has min 1."""

_MOST: Final = (
    "self.roles.size() < {count} || self.roles.exists(r, !has(r.max))"
    " || self.roles.map(r, r.max).sum() >= self.replicas"
)
"""A role that is not listed, or has no max, takes all the others leave."""


def _names_of(method: Method) -> list[str]:
    return [RoleName.of(role) for role in method.roles]


def _all_in(names: Iterable[str]) -> str:
    return f"self.roles.all(r, r.name in {_words(names)})"


def _split_rules() -> Iterator[Rule]:
    for method in Method:
        other, names = f"self.method != '{method}'", _names_of(method)
        allowed = f"{method} deals out {', '.join(names)} and no other role"
        yield Rule(f"{other} || {_all_in(names)}", allowed, field="roles")
        unless = f"{other} || !{_all_in(names)} || "
        few = f"is too few for the minima of method {method} (a role that is not listed has min 1)"
        advice = "raise spec.replicas, lower a min or choose another method"
        yield Rule(f"{unless}{_of(_LEAST, method)}", f"{few}; {advice}", field="replicas")
        many = f"is too many for the maxima of method {method}"
        advice = "lower spec.replicas or raise a max"
        yield Rule(f"{unless}{_of(_MOST, method)}", f"{many}; {advice}", field="replicas")
    yield from _auto_rules()


def _auto_rules() -> Iterator[Rule]:
    automatic = MethodName.AUTO
    other = f"self.method != '{automatic}'"
    dealt = sorted({name for method in automatic.methods for name in _names_of(method)})
    allowed = f"no method deals out one of these; allowed: {', '.join(dealt)}"
    yield Rule(f"{other} || {_all_in(dealt)}", allowed, field="roles")
    candidates = " || ".join(_all_in(_names_of(method)) for method in automatic.methods)
    methods = "; ".join(
        f"{method} ({', '.join(_names_of(method))})" for method in automatic.methods
    )
    together = f"no method deals out these roles together; methods: {methods}"
    yield Rule(f"{other} || !{_all_in(dealt)} || {candidates}", together, field="roles")
    fits = " || ".join(
        f"({_all_in(_names_of(method))} && {_of(_LEAST, method)} && ({_of(_MOST, method)}))"
        for method in automatic.methods
    )
    misfit = "fits the bounds of roles with no method; change spec.replicas, a min or a max"
    yield Rule(f"{other} || !({candidates}) || {fits}", misfit, field="replicas")


def _of(template: str, method: Method) -> str:
    return template.format(count=len(method.roles))


# --- everything --------------------------------------------------------------------------------

RULES: Final[Mapping[str, tuple[Rule, ...]]] = MappingProxyType(
    {
        "ModelSpec": tuple(_hub_rules()),
        "ModelSpec.source": tuple(_source_rules()),
        "ModelSpec.servedName": (_fixed("clients would be refused at once"),),
        "ModelCacheSpec": tuple(_cache_rules()),
        "EngineSpec": tuple(_engine_rules()),
        "EngineSpec.type": (_fixed("streams of one kind cannot go on with the other"),),
        "EngineSpec.args[]": tuple(_arg_rules()),
        "RolePolicy": (
            Rule(
                "!has(self.max) || self.max >= self.min",
                "is below min; raise max or lower min",
                field="max",
            ),
        ),
        "TransportSpec": (
            Rule(
                "!has(self.rdmaResourceName) || self.type in ['Auto', 'RDMA']",
                message_expression=(
                    "'type ' + self.type + ' uses no RDMA device; remove it or set type: RDMA'"
                ),
                field="rdmaResourceName",
            ),
        ),
        "GatewaySpec": (
            Rule(
                "self.access != 'Open' || !has(self.apiKeysSecretRef)",
                "access Open asks for no keys; remove it or set access: Keys",
                field="apiKeysSecretRef",
            ),
        ),
        "EPDClusterSpec": tuple(_split_rules()),
    }
)
"""The rules of each model, of its fields (`MODEL.field`) and of list items (`MODEL.field[]`)."""

"""Manifests with one fault each: the models and the API server's schema refuse them alike."""

from typing import Any

import yaml

GOOD = """\
apiVersion: epd.dev/v1alpha1
kind: EPDCluster
metadata: {name: demo}
spec:
  model: {source: org/model, servedName: demo}
  replicas: 3
"""


def manifest(changes: dict[str, Any]) -> dict[str, Any]:
    """Return the good manifest with values set at dotted paths; `...` removes a key."""
    document: dict[str, Any] = yaml.safe_load(GOOD)
    for path, value in changes.items():
        *parents, last = path.split(".")
        place = document
        for parent in parents:
            place = place.setdefault(parent, {})
        if value is ...:
            del place[last]
        else:
            place[last] = value
    return document


ENCODE = {"name": "Encode"}
SIMULATED = {"type": "Simulated"}

# (what is changed in the good manifest, path of the one fault, its reason)
REFUSALS: list[tuple[dict[str, Any], str, str]] = [
    # identity
    (
        {"apiVersion": "epd.dev/v1"},
        "apiVersion",
        '"epd.dev/v1" is not allowed; allowed: epd.dev/v1alpha1',
    ),
    ({"kind": "EPDcluster"}, "kind", '"EPDcluster" is not allowed; allowed: EPDCluster'),
    ({"kind": ...}, "kind", "is required"),
    ({"metadata": ...}, "metadata", "is required"),
    ({"metadata": {}}, "metadata.name", "is required"),
    (
        {"metadata.name": "Demo"},
        "metadata.name",
        '"Demo" is not of the right form; expected: lower-case letters, digits and dashes, '
        "a letter first, no dash last",
    ),
    (
        {"metadata.name": "a" * 49},
        "metadata.name",
        f'is longer than 48 characters; it begins with "{"a" * 49}"',
    ),
    ({"metadata.label": {}}, "metadata.label", "unknown field; did you mean labels?"),
    (
        {"metadata.labels": {"tier": 1}},
        "metadata.labels.tier",
        "a string is expected, got the number 1",
    ),
    # absent, null and unknown
    ({"spec": ...}, "spec", "is required"),
    ({"spec.replicas": ...}, "spec.replicas", "is required"),
    ({"spec.model.source": ...}, "spec.model.source", "is required"),
    (
        {"spec.slo": None},
        "spec.slo",
        "an object is expected, got nothing (null); give a value or remove the key",
    ),
    ({"spec.replica": 3}, "spec.replica", "unknown field; did you mean replicas?"),
    (
        {"spec.model.served_name": "x"},
        "spec.model.served_name",
        "unknown field; did you mean servedName?",
    ),
    (
        {"spec.servedName": "x"},
        "spec.servedName",
        "unknown field; did you mean spec.model.servedName?",
    ),
    ({"spec.minimum": 1}, "spec.minimum", "unknown field"),
    ({"replicas": 3}, "replicas", "unknown field; did you mean spec.replicas?"),
    (
        {"spec.slo": {"tftMilliseconds": 1}},
        "spec.slo.tftMilliseconds",
        "unknown field; did you mean ttftMilliseconds?",
    ),
    (
        {"spec.transport": {"xyzzy": 1}},
        "spec.transport.xyzzy",
        "unknown field; known here: type, rdmaResourceName",
    ),
    # types
    (
        {"spec.replicas": "3"},
        "spec.replicas",
        'an integer is expected, got the string "3"; remove the quotes',
    ),
    ({"spec.replicas": 2.5}, "spec.replicas", "an integer is expected, got the number 2.5"),
    ({"spec.replicas": True}, "spec.replicas", "an integer is expected, got the boolean true"),
    ({"spec.model": "org/model"}, "spec.model", 'an object is expected, got the string "org/mod'),
    ({"spec.engine": []}, "spec.engine", "an object is expected, got a list"),
    ({"spec.roles": {"Encode": 1}}, "spec.roles", "a list is expected, got an object"),
    ({"spec.roles": ["Encode"]}, "spec.roles[0]", 'an object is expected, got the string "Encode"'),
    (
        {"spec.engine": {"args": ["--max-model-len", 2048]}},
        "spec.engine.args[1]",
        "a string is expected, got the number 2048",
    ),
    ({"spec.podTemplate": []}, "spec.podTemplate", "an object is expected, got a list"),
    # bounds and forms
    ({"spec.replicas": 0}, "spec.replicas", "0 is below the least allowed, 1"),
    ({"spec.replicas": 10**30}, "spec.replicas", "is above the most allowed, 1024"),
    ({"spec.slo": {"attainmentPercent": 101}}, "spec.slo.attainmentPercent", "101 is above"),
    ({"spec.gateway": {"port": 0}}, "spec.gateway.port", "0 is below the least allowed, 1"),
    (
        {"spec.gateway": {"limits": {"maxBodyBytes": 1}}},
        "spec.gateway.limits.maxBodyBytes",
        "1 is below the least allowed, 1024",
    ),
    (
        {"spec.gateway": {"limits": {"allowedMediaDomains": ["https://a.example/x"]}}},
        "spec.gateway.limits.allowedMediaDomains[0]",
        '"https://a.example/x" is not of the right form; expected: a host name alone',
    ),
    ({"spec.model.source": "a model"}, "spec.model.source", '"a model" is not of the right form'),
    ({"spec.model.source": ""}, "spec.model.source", "expected: at least one character"),
    ({"spec.model.servedName": "a,b"}, "spec.model.servedName", '"a,b" is not of the right form'),
    ({"spec.engine": {"args": [""]}}, "spec.engine.args[0]", '"" is too short; least: 1'),
    ({"spec.engine": {"args": ["--x"] * 129}}, "spec.engine.args", "more than 128 entries"),
    ({"spec.roles": [ENCODE] * 8}, "spec.roles", "has more than 7 entries"),
    (
        {"spec.podTemplate": {"metadata": dict.fromkeys("abcdefghijklmnopq", 1)}},
        "spec.podTemplate.metadata",
        "16 entries",
    ),
    (
        {"spec.podTemplate": {"resources": {}}},
        "spec.podTemplate.resources",
        "unknown field; known here: metadata, spec",
    ),
    (
        {"spec.gateway": {"podTemplate": {"spec": []}}},
        "spec.gateway.podTemplate.spec",
        "an object is expected, got a list",
    ),
    (
        {"spec.transport": {"rdmaResourceName": "hca"}},
        "spec.transport.rdmaResourceName",
        '"hca" is not of the right form; expected: DOMAIN/NAME, such as rdma/hca',
    ),
    # words
    (
        {"spec.engine": {"type": "vllm"}},
        "spec.engine.type",
        '"vllm" is not allowed; allowed: VLLM, Simulated; did you mean VLLM?',
    ),
    (
        {"spec.method": "EPD-"},
        "spec.method",
        '"EPD-" is not allowed; allowed: Auto, EPD, EP-D, ED-P, E-P-D; did you mean EPD?',
    ),
    (
        {"spec.roles": [{"name": "encode"}]},
        "spec.roles[0].name",
        '"encode" is not allowed; allowed: Encode, Prefill, Decode, EncodePrefill, EncodeDecode, '
        "PrefillDecode, EncodePrefillDecode; did you mean Encode?",
    ),
    (
        {"spec.control": {"mode": "On"}},
        "spec.control.mode",
        '"On" is not allowed; allowed: Active, Shadow, Off',
    ),
    # contradictions
    (
        {"spec.roles": [ENCODE, {"name": "Decode", "min": 2, "max": 1}]},
        "spec.roles[1].max",
        "1 is below min 2; raise max or lower min",
    ),
    (
        {"spec.roles": [ENCODE, ENCODE]},
        "spec.roles[1].name",
        "Encode is already at spec.roles[0]; list each role once",
    ),
    (
        {"spec.method": "EP-D", "spec.roles": [ENCODE]},
        "spec.roles[0].name",
        "EP-D does not deal out Encode; allowed: Decode, EncodePrefill",
    ),
    (
        {"spec.roles": [{"name": "PrefillDecode"}]},
        "spec.roles[0].name",
        "no method deals out PrefillDecode; allowed: Encode, Prefill, Decode, EncodePrefill, "
        "EncodeDecode, EncodePrefillDecode",
    ),
    (
        {"spec.roles": [ENCODE, {"name": "EncodePrefill"}]},
        "spec.roles",
        "no method deals out Encode, EncodePrefill together; methods: E-P-D (Encode, Prefill, "
        "Decode); EP-D (EncodePrefill, Decode); ED-P (EncodeDecode, Prefill); "
        "EPD (EncodePrefillDecode)",
    ),
    (
        {"spec.method": "E-P-D", "spec.replicas": 2},
        "spec.replicas",
        "2 is too few for method E-P-D: the minima add up to 3 (Encode 1, Prefill 1, Decode 1); "
        "raise spec.replicas, lower a min or choose another method",
    ),
    (
        {"spec.method": "E-P-D", "spec.roles": [{"name": "Encode", "min": 2}]},
        "spec.replicas",
        "3 is too few for method E-P-D: the minima add up to 4 (Encode 2, Prefill 1, Decode 1)",
    ),
    (
        {"spec.method": "EPD", "spec.roles": [{"name": "EncodePrefillDecode", "max": 2}]},
        "spec.replicas",
        "3 is too many for method EPD: the maxima add up to 2 (EncodePrefillDecode 2); lower "
        "spec.replicas or raise a max",
    ),
    (
        {"spec.replicas": 1, "spec.roles": [ENCODE]},
        "spec.replicas",
        "1 is too few for method E-P-D",
    ),
    (
        {"spec.engine": SIMULATED | {"image": "registry.example/worker:1"}},
        "spec.engine.image",
        "type Simulated runs the release's own image; remove image",
    ),
    (
        {"spec.engine": SIMULATED | {"args": ["--enforce-eager"]}},
        "spec.engine.args",
        "type Simulated takes no vLLM flags; remove args or set type: VLLM",
    ),
    (
        {"spec.engine": {"simulated": {}}},
        "spec.engine.simulated",
        "belongs to type Simulated; remove it or set type: Simulated",
    ),
    (
        {"spec.engine": {"args": ["--enforce-eager", "--kv_transfer_config={}"]}},
        "spec.engine.args[1]",
        "--kv_transfer_config is decided by spec.transport; remove it here",
    ),
    (
        {"spec.engine": {"args": ["--dtype float32"]}},
        "spec.engine.args[0]",
        "--dtype and its value are one item; write --flag=value or two items",
    ),
    (
        {"spec.engine": {"args": ["org/model"]}},
        "spec.engine.args[0]",
        "is a value without a flag before it; flags begin with --",
    ),
    (
        {"spec.model.source": "s3://bucket/model"},
        "spec.model.source",
        "expected: a hub name (org/name), a folder, pvc://CLAIM/FOLDER or oci://IMAGE",
    ),
    ({"spec.model.source": "pvc://Models/qwen"}, "spec.model.source", "expected: pvc://CLAIM/F"),
    ({"spec.model.source": "pvc://models/../etc"}, "spec.model.source", "the folder without .."),
    ({"spec.model.source": "pvc://"}, "spec.model.source", "expected: pvc://CLAIM/FOLDER"),
    ({"spec.model.source": "oci://"}, "spec.model.source", "expected: oci://IMAGE"),
    ({"spec.model.source": "a\u00a0b"}, "spec.model.source", "no spaces"),
    (
        {"spec.model": {"source": "pvc://m/qwen", "servedName": "m", "revision": "main"}},
        "spec.model.revision",
        "is for a model on the hub, which pvc:// is not; remove it",
    ),
    (
        {"spec.model": {"source": "oci://r/m", "servedName": "m", "tokenSecretRef": {"name": "t"}}},
        "spec.model.tokenSecretRef",
        "is for a model on the hub, which oci:// is not; remove it",
    ),
    (
        {"spec.model.cache": {"type": "Claim"}},
        "spec.model.cache.claimName",
        "is required with type Claim",
    ),
    (
        {"spec.model.cache": {"nodeFolder": "/var/models"}},
        "spec.model.cache.nodeFolder",
        "belongs to type Node; remove it or set type: Node",
    ),
    (
        {"spec.model.cache": {"type": "Node", "nodeFolder": "models"}},
        "spec.model.cache.nodeFolder",
        '"models" is not of the right form; expected: a path that begins with a slash',
    ),
    (
        {"spec.gateway": {"access": "Open", "apiKeysSecretRef": {"name": "keys"}}},
        "spec.gateway.apiKeysSecretRef",
        "access Open asks for no keys; remove it or set access: Keys",
    ),
    (
        {"spec.transport": {"type": "TCP", "rdmaResourceName": "rdma/hca"}},
        "spec.transport.rdmaResourceName",
        "type TCP uses no RDMA device; remove it or set type: RDMA",
    ),
]

"""Drawn by Hypothesis: valid clusters of every shape, and any JSON."""

from typing import Any

from hypothesis import strategies as st

from epd.api import (
    ControlMode,
    EngineType,
    EPDCluster,
    EPDClusterSpec,
    MethodName,
    RoleName,
    TransportType,
)
from epd.api.base import ApiModel
from epd.api.meta import ObjectMeta
from epd.api.model import ModelCacheSpec, ModelSpec, TokenSecretRef
from epd.api.names import CacheType, Overflow, RoleEdits, RolloutType, ServiceType
from epd.api.status import Condition, EPDClusterStatus, LastDecision, RoleStatus
from epd.api.v1alpha1 import (
    ControlSpec,
    EngineSpec,
    GatewayLimits,
    GatewaySpec,
    PodTemplate,
    RolePolicy,
    RolloutSpec,
    SecretKeyRef,
    SimulatedEngineSpec,
    SLOSpec,
    TransportSpec,
)

TEXT = st.text(st.characters(codec="utf-8"), min_size=1, max_size=24)
WORD = st.from_regex(r"[A-Za-z0-9]([-A-Za-z0-9._/:]{0,20}[A-Za-z0-9])?", fullmatch=True)
NAME = st.from_regex(r"[a-z]([-a-z0-9]{0,20}[a-z0-9])?", fullmatch=True)
# What YAML may mistake for something else.
TRICKY = st.sampled_from(
    ["no", "null", "~", "1", "0o7", "1e3", "1:30", "2026-11-21", "<<", "=", ".5"]
)
NO_SPACES = st.one_of(WORD, TRICKY)


def made(model: type[ApiModel], **fields: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    """Return a strategy for `model`; `st.builds` would guess at what is not given."""
    return st.fixed_dictionaries(fields).map(lambda values: model(**values))


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | TEXT | TRICKY
    | st.floats(allow_nan=False, allow_infinity=False),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT | TRICKY, inner, max_size=3),
    max_leaves=8,
)  # fmt: skip
OPAQUE = st.dictionaries(TEXT, JSON, max_size=4)
TEMPLATES = made(PodTemplate, metadata=st.none() | OPAQUE, spec=st.none() | OPAQUE)
FLAGS = st.lists(st.sampled_from(["--enforce-eager", "--seed=1", "--dtype", "-O3"]), max_size=4)

CACHES = st.one_of(
    made(ModelCacheSpec),
    made(ModelCacheSpec, type=st.just(CacheType.CLAIM), claim_name=NAME),
    made(ModelCacheSpec, type=st.just(CacheType.NODE), node_folder=st.just("/var/models")),
)
MODELS = st.one_of(
    made(
        ModelSpec,
        source=NO_SPACES.filter(lambda source: "://" not in source),
        served_name=WORD,
        revision=st.none() | NO_SPACES,
        token_secret_ref=st.none() | made(TokenSecretRef, name=NAME),
        cache=CACHES,
    ),
    made(
        ModelSpec,
        source=st.builds("pvc://{}/{}".format, NAME, NAME) | NAME.map("oci://x{}".format),
        served_name=WORD,
    ),
)
ENGINES = st.one_of(
    made(EngineSpec, image=st.none() | WORD, args=FLAGS.map(tuple)),
    made(
        EngineSpec,
        type=st.just(EngineType.SIMULATED),
        simulated=st.none() | made(SimulatedEngineSpec, cost_curves_file=st.none() | TEXT | TRICKY),
    ),
)
SLOS = made(
    SLOSpec,
    ttft_milliseconds=st.integers(1, 600_000),
    tpot_milliseconds=st.integers(1, 60_000),
    attainment_percent=st.integers(1, 100),
    overflow=st.sampled_from(Overflow),
)
CONTROLS = made(
    ControlSpec,
    mode=st.sampled_from(ControlMode),
    interval_seconds=st.integers(1, 3600),
    cooldown_seconds=st.integers(0, 86_400),
    max_concurrent_flips=st.integers(1, 256),
    role_edits=st.sampled_from(RoleEdits),
)
ROLLOUTS = made(
    RolloutSpec,
    type=st.sampled_from(RolloutType),
    max_concurrent_pods=st.integers(1, 256),
    drain_seconds=st.integers(0, 86_400),
)
TRANSPORTS = st.one_of(
    made(TransportSpec, type=st.sampled_from(TransportType)),
    made(TransportSpec, rdma_resource_name=st.just("rdma/hca")),
)
GATEWAYS = made(
    GatewaySpec,
    replicas=st.integers(1, 256),
    port=st.integers(1, 65_535),
    limits=made(
        GatewayLimits,
        max_images=st.integers(1, 1024),
        allowed_media_domains=st.lists(NAME, max_size=3).map(tuple),
    ),
    service_type=st.sampled_from(ServiceType),
    api_keys_secret_ref=st.none() | made(SecretKeyRef, name=NAME),
    tls_secret_name=st.none() | NAME,
    pod_template=TEMPLATES,
)
METADATA = made(
    ObjectMeta,
    name=NAME,
    namespace=st.none() | NAME,
    labels=st.none() | st.dictionaries(TEXT, TEXT, max_size=3),
    annotations=st.none() | st.dictionaries(TEXT | TRICKY, TEXT | TRICKY, max_size=3),
    generation=st.none() | st.integers(0, 2**53),
)
STATUSES = made(
    EPDClusterStatus,
    conditions=st.lists(
        made(
            Condition,
            type=NAME,
            status=st.sampled_from(["True", "False", "Unknown"]),
            last_transition_time=st.just("2026-11-21T09:30:00Z"),
            reason=st.just("Serving"),
            message=TEXT,
        ),
        max_size=2,
    ).map(tuple),
    roles=st.lists(
        made(
            RoleStatus,
            name=st.sampled_from(RoleName),
            desired=st.integers(0, 9),
            ready=st.integers(0, 9),
        ),
        max_size=2,
    ).map(tuple),
    last_decision=st.none()
    | made(LastDecision, time=TEXT, reason=st.just("Cooldown"), message=TEXT),
)


@st.composite
def splits(draw: st.DrawFn) -> tuple[int, MethodName, tuple[RolePolicy, ...]]:
    """Draw replicas, a method and role bounds that agree with one another."""
    name = draw(st.sampled_from(MethodName))
    method = draw(st.sampled_from(name.methods))
    pods = [draw(st.integers(0, 9)) for _ in method.roles]
    pods[-1] += not any(pods)
    roles = tuple(
        RolePolicy(
            name=RoleName.of(role),
            min=draw(st.integers(0, count)),
            max=draw(st.none() | st.integers(max(count, 1), 99)),
        )
        for role, count in zip(method.roles, pods, strict=True)
    )
    return sum(pods), name, tuple(draw(st.permutations(roles)))


@st.composite
def specs(draw: st.DrawFn) -> EPDClusterSpec:
    replicas, method, roles = draw(splits())
    return EPDClusterSpec(
        model=draw(MODELS),
        engine=draw(ENGINES),
        replicas=replicas,
        method=method,
        roles=roles,
        slo=draw(SLOS),
        control=draw(CONTROLS),
        transport=draw(TRANSPORTS),
        rollout=draw(ROLLOUTS),
        gateway=draw(GATEWAYS),
        pod_template=draw(TEMPLATES),
    )


CLUSTERS = made(
    EPDCluster,
    api_version=st.just("epd.dev/v1alpha1"),
    kind=st.just("EPDCluster"),
    metadata=METADATA,
    spec=specs(),
    status=st.none() | STATUSES,
)

"""Any valid cluster survives being written and read; any text gets a cluster or a ClusterError."""

from contextlib import suppress

from drawn_clusters import CLUSTERS, JSON, specs
from hypothesis import given
from hypothesis import strategies as st

from epd.api import (
    ClusterError,
    EPDCluster,
    EPDClusterSpec,
    chosen_method,
    dump_cluster,
    initial_roles,
    manifest_of,
    parse_cluster,
    role_bounds,
    validate_cluster,
)


@given(CLUSTERS)
def test_a_cluster_written_as_yaml_is_read_back_equal(cluster: EPDCluster) -> None:
    assert parse_cluster(dump_cluster(cluster)) == cluster


@given(CLUSTERS)
def test_a_cluster_survives_plain_data(cluster: EPDCluster) -> None:
    assert validate_cluster(manifest_of(cluster)) == cluster


@given(specs())
def test_the_first_split_uses_every_pod_within_the_bounds(spec: EPDClusterSpec) -> None:
    roles = initial_roles(spec)
    assert len(roles) == spec.replicas
    bounds = role_bounds(spec, chosen_method(spec))
    assert set(roles) <= set(bounds)
    for role, (least, most) in ((r, (b.min_pods, b.max_pods)) for r, b in bounds.items()):
        assert least <= roles.count(role) <= (spec.replicas if most is None else most)
    assert roles == sorted(roles, key=list(bounds).index)


@given(specs())
def test_pods_beyond_the_minima_level_the_roles(spec: EPDClusterSpec) -> None:
    roles = initial_roles(spec)
    bounds = role_bounds(spec, chosen_method(spec))
    raised = [roles.count(r) for r, b in bounds.items() if roles.count(r) > b.min_pods]
    open_ = [roles.count(r) for r, b in bounds.items() if roles.count(r) != b.max_pods]
    assert not raised or not open_ or max(raised) <= min(open_) + 1


@given(st.text(max_size=200))
def test_any_text_is_a_cluster_or_a_cluster_error(text: str) -> None:
    with suppress(ClusterError):
        parse_cluster(text)


@given(JSON)
def test_any_data_is_a_cluster_or_a_cluster_error(data: object) -> None:
    with suppress(ClusterError):
        validate_cluster(data)


@given(CLUSTERS, st.data())
def test_a_cluster_with_one_value_replaced_is_a_cluster_or_a_cluster_error(
    cluster: EPDCluster, data: st.DataObject
) -> None:
    manifest = manifest_of(cluster)
    place = manifest
    while True:
        key = data.draw(st.sampled_from(sorted(place)))
        inner = place[key]
        if not isinstance(inner, dict) or not inner or data.draw(st.booleans()):
            place[key] = data.draw(JSON)
            break
        place = inner
    with suppress(ClusterError):
        validate_cluster(manifest)

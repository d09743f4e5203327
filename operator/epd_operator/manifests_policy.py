"""Builds what protects a cluster's pods: disruption budgets and network policies."""

from epd.vocabulary import DEFAULT_PORTS, Component, PortName
from epd_operator.objects import Kind, Manifest
from epd_operator.wanted import Wanted, selector


def policy_objects(wanted: Wanted) -> list[Manifest]:
    """Return the objects that protect the cluster's pods."""
    return [
        _budget(wanted, Component.WORKER, wanted.spec.replicas),
        _budget(wanted, Component.GATEWAY, wanted.spec.gateway.replicas),
        _worker_network(wanted),
        _gateway_network(wanted),
    ]


def _budget(wanted: Wanted, component: Component, pods: int) -> Manifest:
    """Let a node's upgrade take one pod at a time; a single pod may go, or no node ever would.

    An integer `minAvailable` is the one form that holds for pods without a Deployment.
    """
    return {
        **Kind.DISRUPTION_BUDGET.type_meta,
        "metadata": wanted.metadata(wanted.name(component.value), component),
        "spec": {
            "minAvailable": pods - 1,
            "selector": {"matchLabels": selector(wanted.key.name, component)},
            "unhealthyPodEvictionPolicy": "AlwaysAllow",
        },
    }


def _worker_network(wanted: Wanted) -> Manifest:
    """Let workers reach each other at any port, for transports choose theirs; gateways gRPC only.

    Probes, metrics and the operator's questions come from anywhere: they hold no prompt.
    """
    cluster = wanted.key.name
    workers = {"podSelector": {"matchLabels": selector(cluster, Component.WORKER)}}
    gateways = {"podSelector": {"matchLabels": selector(cluster, Component.GATEWAY)}}
    return {
        **Kind.NETWORK_POLICY.type_meta,
        "metadata": wanted.metadata(wanted.name("worker"), Component.WORKER),
        "spec": {
            "podSelector": {"matchLabels": selector(cluster, Component.WORKER)},
            "policyTypes": ["Ingress"],
            "ingress": [
                {"from": [workers]},
                {"from": [gateways], "ports": [_port(PortName.WORKER_GRPC)]},
                {"ports": [_port(PortName.WORKER_METRICS), _port(PortName.WORKER_PROBES)]},
            ],
        },
    }


def _gateway_network(wanted: Wanted) -> Manifest:
    return {
        **Kind.NETWORK_POLICY.type_meta,
        "metadata": wanted.metadata(wanted.name("gateway"), Component.GATEWAY),
        "spec": {
            "podSelector": {
                "matchLabels": selector(wanted.key.name, Component.GATEWAY),
            },
            "policyTypes": ["Ingress"],
            "ingress": [{"ports": [_port(PortName.GATEWAY_HTTP)]}],
        },
    }


def _port(name: PortName) -> Manifest:
    return {"port": DEFAULT_PORTS[name], "protocol": "TCP"}

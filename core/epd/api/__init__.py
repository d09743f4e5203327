"""The `EPDCluster` API: its models, how manifests are read, and what they mean for a fleet."""

from epd.api.load import dump_cluster, load_cluster, manifest_of, parse_cluster, validate_cluster
from epd.api.names import ControlMode, EngineType, MethodName, RoleName, TransportType
from epd.api.problems import ClusterError, Problem
from epd.api.roles import chosen_method, initial_roles, role_bounds
from epd.api.v1alpha1 import EPDCluster, EPDClusterSpec

__all__ = [
    "ClusterError",
    "ControlMode",
    "EPDCluster",
    "EPDClusterSpec",
    "EngineType",
    "MethodName",
    "Problem",
    "RoleName",
    "TransportType",
    "chosen_method",
    "dump_cluster",
    "initial_roles",
    "load_cluster",
    "manifest_of",
    "parse_cluster",
    "role_bounds",
    "validate_cluster",
]

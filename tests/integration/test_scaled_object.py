"""KEDA's way to scale an `EPDCluster`: the example is one that its CRD takes, for what is there."""

import re
import subprocess
from pathlib import Path

import pytest
import yaml
from kube.binaries import ARCHIVES_FOLDER, UnavailableError, find
from running_operator import ROOT, Clusters

from epd import telemetry

CRD = ARCHIVES_FOLDER / "crds" / "keda.sh_scaledobjects.yaml"
EXAMPLE = yaml.safe_load((ROOT / "examples" / "keda" / "scaledobject.yaml").read_text())
CLUSTER = yaml.safe_load((ROOT / "examples" / "simulated.yaml").read_text())


@pytest.mark.skipif(not CRD.is_file(), reason="KEDA's definitions are not here")
def test_the_example_is_taken_and_its_target_scales_within_its_bounds(clusters: Clusters) -> None:
    api, here = clusters.api, ("-n", clusters.namespace)
    api.kubectl("apply", "--server-side", "-f", CRD)
    api.kubectl("wait", "--for=condition=Established", "-f", CRD)
    api.kubectl("apply", "--validate=strict", "-f", "-", *here, manifest=EXAMPLE)
    api.kubectl("apply", "-f", "-", *here, manifest=CLUSTER)
    spec = EXAMPLE["spec"]
    target = spec["scaleTargetRef"]
    assert (target["apiVersion"], target["kind"]) == (CLUSTER["apiVersion"], CLUSTER["kind"])
    # What KEDA's autoscaler reads and writes.
    path = f"{clusters.path(target['name'])}/scale"
    for replicas in (spec["maxReplicaCount"], spec["minReplicaCount"]):
        clusters.merge(path, {"spec": {"replicas": replicas}})
        assert api.call("GET", path)["spec"]["replicas"] == replicas


def test_the_example_asks_for_metrics_that_are_exported(tmp_path: Path) -> None:
    query = EXAMPLE["spec"]["triggers"][0]["metadata"]["query"]
    (series,) = re.findall(r"(\w+)\{([^}]*)\}", query)
    exported = {metric.name: metric for metric in telemetry.METRICS}
    asked = set(re.findall(r"(\w+)=", series[1]))
    assert asked <= set(exported[series[0]].labels)
    rules = tmp_path / "rules.yaml"
    rule = {"record": "demand", "expr": query}
    rules.write_text(yaml.safe_dump({"groups": [{"name": "keda", "rules": [rule]}]}))
    try:
        promtool = find("promtool")["promtool"]
    except UnavailableError as error:
        pytest.skip(f"no promtool here: {error}")
    done = subprocess.run([promtool, "check", "rules", rules], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr

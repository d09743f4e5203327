"""YAML that is none, files that cannot be read, and what YAML can hold and a manifest cannot."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from epd.api import ClusterError, load_cluster, parse_cluster, validate_cluster

GOOD = """\
apiVersion: epd.dev/v1alpha1
kind: EPDCluster
metadata: {name: demo}
spec:
  model: {source: org/model, servedName: demo}
  replicas: 3
"""


def faults_of(text: str) -> list[tuple[str, str]]:
    with pytest.raises(ClusterError) as caught:
        parse_cluster(text)
    return [(problem.path, problem.reason) for problem in caught.value.problems]


YAML_FAULTS: list[tuple[str, str, str]] = [
    ("", "manifest", "is empty; an EPDCluster is expected"),
    ("# only a comment\n", "manifest", "is empty; an EPDCluster is expected"),
    (f"{GOOD}---\n{GOOD}", "manifest", "holds 2 documents; put one EPDCluster in a file"),
    ("just words", "manifest", 'an object is expected, got the string "just words"'),
    ("- a\n- b\n", "manifest", "an object is expected, got a list"),
    ("spec:\n  a: b: c\n", "line 2, column 7", "not YAML: mapping values are not allowed here"),
    ("spec: [1, 2\n", "line 2, column 1", "not YAML: expected ',' or ']'"),
    ("a:\n\t- b\n", "line 2, column 1", "not YAML: found character"),
    (f"{GOOD}  replicas: 4\n", "line 7, column 3", "not YAML: the key 'replicas' comes twice"),
    ("a: &x {b: 1}\nc: {<<: *x}\n", "line 2, column 5", "not YAML: merge keys are not read"),
    ("a: *nowhere\n", "line 1, column 4", "not YAML: found undefined alias 'nowhere'"),
    ("a: !!python/object:os.system x\n", "line 1, column 4", "could not determine a constructor"),
    ("a: !!binary aGk=\n", "line 1, column 4", "could not determine a constructor"),
    ("a: !!int x\n", "manifest", "not YAML: a value does not fit its tag"),
    ("a: !!bool x\n", "manifest", "not YAML: a value does not fit its tag"),
    ("a: \x00\n", "manifest", "not YAML: unacceptable character #x0000"),
    (f"a: {'[' * 5000}", "manifest", "is nested too deeply"),
    (f"a: {'[' * 80}{']' * 80}", "manifest", "is nested deeper than 64"),
    ("a: &x [*x]\n", "manifest", "is nested deeper than 64"),
    (f"{GOOD}  podTemplate: {{1: x}}\n", "spec.podTemplate", "the key 1 is not a string; put it"),
    (f"{GOOD}  slo: {{ttftMilliseconds: 1:30}}\n", "spec.slo.ttftMilliseconds", 'string "1:30"'),
    (f"#{'x' * (1 << 20)}", "manifest", "is larger than 1048576 bytes"),
]


@pytest.mark.parametrize(("text", "path", "reason"), YAML_FAULTS, ids=lambda value: value[:40])
def test_faulty_yaml_is_refused_with_its_place(text: str, path: str, reason: str) -> None:
    ((found_path, found_reason),) = faults_of(text)
    assert found_path == path
    assert reason in found_reason
    assert "\n" not in found_reason


def test_aliases_that_multiply_are_refused_before_they_are_spelt_out() -> None:
    lines = ["l0: &l0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"l{n}: &l{n} [{', '.join([f'*l{n - 1}'] * 10)}]" for n in range(1, 9)]
    ((path, reason),) = faults_of("\n".join(lines))
    assert path == "manifest"
    assert "more than 20000 values" in reason


def test_a_number_that_json_lacks_is_refused() -> None:
    manifest: dict[str, Any] = yaml.safe_load(GOOD)
    manifest["spec"]["podTemplate"] = {"a": [1.5, float("nan")]}
    with pytest.raises(ClusterError, match=r"spec\.podTemplate\.a\[1\]: nan has no place"):
        validate_cluster(manifest)


def test_a_missing_file_is_refused_by_name(tmp_path: Path) -> None:
    path = tmp_path / "absent.yaml"
    with pytest.raises(ClusterError) as caught:
        load_cluster(path)
    assert str(caught.value) == f"{path}: manifest: cannot be read: No such file or directory"
    with pytest.raises(ClusterError, match="Is a directory"):
        load_cluster(str(tmp_path))


def test_a_file_that_is_not_text_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "picture.yaml"
    path.write_bytes(b"\x89PNG\r\n\xff\xfe")
    with pytest.raises(ClusterError, match="is not a text file in UTF-8"):
        load_cluster(path)


def test_a_file_that_is_too_large_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "large.yaml"
    path.write_text(GOOD + "#" * (1 << 20))
    with pytest.raises(ClusterError, match="is larger than 1048576 bytes"):
        load_cluster(path)


def test_the_faults_of_a_file_name_the_file(tmp_path: Path) -> None:
    path = tmp_path / "demo.yaml"
    path.write_text(GOOD.replace("replicas: 3", "replicas: x"))
    with pytest.raises(ClusterError) as caught:
        load_cluster(path)
    assert str(caught.value).startswith(f"{path}: spec.replicas: an integer is expected")
    assert caught.value.source == str(path)

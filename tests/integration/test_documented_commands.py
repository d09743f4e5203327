"""Every command of README and docs works: it is run here, or a named test runs what it runs."""

import ast
import re
import shlex
import subprocess
from pathlib import Path

import pytest
from documented_beds import CommandFailedError, Desk, PlayedKubernetes, Ups
from documented_commands import (
    ROOT,
    Command,
    Output,
    commands,
    commands_of,
    nameless_outputs,
    outputs,
    outputs_of,
    stray_commands_of,
)
from documented_commands import stray_commands as strays
from kube.binaries import UnavailableError
from kube.fake_nodes import FakeNodes

from epd_cli import __main__ as epd
from epd_cli import kubectl_epd

DEMO = "tests/e2e/test_demo_kubernetes.py::test_the_demo_runs_on_a_node_of_this_machine"
THEIR_DEMO = (
    "tests/e2e/test_demo_kubernetes.py"
    "::test_the_demo_runs_on_a_users_cluster_and_leaves_nothing_but_the_kind"
)
IMAGES = (
    "tests/integration/test_images.py"
    "::test_an_image_holds_its_program_its_own_libraries_and_no_others"
)
TOP = (
    "tests/e2e/test_live_views.py::test_a_terminal_of_80_by_24_follows_a_flip_and_is_left_as_it_was"
)
KUBECTL_TOP = (
    "tests/integration/test_kubectl_top.py"
    "::test_it_shows_the_gateways_snapshot_with_the_operators_decision"
)
KUBECTL_PLAN = (
    "tests/integration/test_control_prometheus.py"
    "::test_a_plan_is_made_of_the_traffic_that_prometheus_saw"
)
KUBECTL_LOGS = "tests/integration/test_kubectl_epd.py::test_logs_are_those_of_kubectl"
PLAN = "tests/sim/test_sim_commands.py::test_plan_names_the_smallest_fleet_that_meets_the_objective"
SIMULATE = (
    "tests/sim/test_sim_commands.py::test_simulate_compares_policies_and_says_what_it_rests_on"
)
CURVES = "tests/sim/test_sim_commands.py::test_a_curves_file_is_a_model_and_its_mistakes_are_told"
AZURE = "tests/sim/test_sim_traces.py::test_azure_times_start_at_zero"
SLOW = "tests/e2e/test_alerts_fire.py::test_slow_pods_burn_the_budget_of_the_time_per_token"
LOSSY = (
    "tests/e2e/test_alerts_fire.py"
    "::test_a_flood_of_pictures_burns_the_budget_of_the_first_token_and_lost_handoffs_are_told"
)

# Which test runs what a command runs, where a played node or a minute is not enough for it.
BY_ANOTHER_TEST = {
    r"make demo": DEMO,
    r"make demo CLUSTER=mine .*": THEIR_DEMO,
    r"docker build .*": IMAGES,
    r"epd top": TOP,
    r"kubectl epd top .*": KUBECTL_TOP,
    r"kubectl epd logs .*": KUBECTL_LOGS,
    r"kubectl epd plan .*": KUBECTL_PLAN,
    r"kubectl port-forward service/.*": THEIR_DEMO,
    r"epd plan --trace azure:.*": AZURE,
    r"epd plan .* --model mine.yaml .*": CURVES,
    r"epd plan .*": PLAN,
    r"epd simulate .* --model mine.yaml": CURVES,
    r"epd simulate .*": SIMULATE,
    r"epd fault slow .*": SLOW,
    r"epd fault lossy-handoff .*": LOSSY,
}
NOT_HERE = {
    r"kubectl logs .*": "pods of nodes that are played have no logs",
}
# tests/sim/test_sim_commands.py compares what these print with what a page shows.
OUTPUT_BY_ANOTHER_TEST = ("epd plan ",)
KUBERNETES = ("kubectl ", "helm ", "export KUBECONFIG=")
LOCAL = (
    "epd ",
    "curl ",
    "for i in ",
    "export PATH=",
    "OTEL_EXPORTER_OTLP_ENDPOINT=http://127.0.0.1:4317 epd up ",
)


def elsewhere(command: Command) -> str | None:
    """Return which test runs a command, or why none does; None: it is run here."""
    found = (name for words, name in {**BY_ANOTHER_TEST, **NOT_HERE}.items()
             if re.fullmatch(words, command.key))  # fmt: skip
    return next(found, None)


def those_of(*beginnings: str) -> list[Command]:
    """Return the commands that begin so and are run here."""
    return [each for each in commands() if each.key.startswith(beginnings) and not elsewhere(each)]


def test_every_command_is_run_by_somebody() -> None:
    known = (*KUBERNETES, *LOCAL, "make ")
    lacking = [each for each in commands() if not elsewhere(each)]
    assert [str(each) for each in lacking if not each.key.startswith(known)] == []


def test_every_command_stands_in_a_block_marked_sh() -> None:
    assert strays() == []


def test_every_row_of_the_lists_is_needed() -> None:
    keys = [each.key for each in commands()]
    rows = [*BY_ANOTHER_TEST, *NOT_HERE]
    assert [row for row in rows if not any(re.fullmatch(row, key) for key in keys)] == []


@pytest.mark.parametrize("name", sorted(set(BY_ANOTHER_TEST.values())))
def test_every_test_that_the_list_names_exists(name: str) -> None:
    file, _, function = name.partition("::")
    tree = ast.parse((ROOT / file).read_text(encoding="utf-8"))
    found = {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}
    found |= {node.name for node in tree.body if isinstance(node, ast.AsyncFunctionDef)}
    assert function in found


def test_every_command_of_ours_is_one_that_its_parser_takes() -> None:
    for command in commands():
        words = shlex.split(command.key)
        if words[0] == "epd":
            epd.parser().parse_args(words[1:])
        elif words[:2] == ["kubectl", "epd"]:
            kubectl_epd.parser().parse_args(words[2:])


def test_every_make_command_names_a_target_and_its_steps_can_be_read() -> None:
    for key in sorted({each.key for each in commands() if each.key.startswith("make ")}):
        done = subprocess.run(
            ["make", "--dry-run", *shlex.split(key)[1:]], cwd=ROOT, capture_output=True, text=True
        )
        assert done.returncode == 0, f"{key}: {done.stderr}"


@pytest.mark.timeout(600)
def test_every_command_beside_epd_up_works(tmp_path: Path) -> None:
    ups = Ups(Desk(tmp_path))
    try:
        for command in those_of(*LOCAL):
            ups.take(command)
    finally:
        statuses = ups.end()
    assert set(statuses) == {0}
    shown = [each for each in outputs() if not each.key.startswith(OUTPUT_BY_ANOTHER_TEST)]
    lacking = {f"{each.page}:{each.line}": each.lacking_in(ups.said[each.key]) for each in shown}
    assert {place: lines for place, lines in lacking.items() if lines} == {}


@pytest.mark.timeout(600)
def test_every_command_on_kubernetes_works(tmp_path: Path) -> None:
    try:
        plane = FakeNodes(pod_range="10.65.0.0/16")
    except UnavailableError as error:
        pytest.skip(f"no Kubernetes here: {error}")
    with plane:
        kubernetes = PlayedKubernetes(plane, tmp_path)
        try:
            for command in those_of(*KUBERNETES):
                kubernetes.take(command)
        finally:
            kubernetes.end()


def test_every_output_of_readme_and_tour_says_of_which_command_it_is() -> None:
    assert nameless_outputs() == []
    assert {"README.md", "docs/start.md"} <= {each.page for each in outputs()}


def test_an_output_that_is_not_the_commands_is_found() -> None:
    page = """words

<!-- epd status -->
```
POD   ROLE     E/P/D
p-0   encode   1/0/0
decode  3
12:00 done
```

```text
ROLE POD
```
"""
    (output,) = outputs_of("README.md", page)
    assert (output.line, output.key) == (5, "epd status")
    real = "POD  ROLE  E/P/D\nq-1  decode  0/0/1\ndecode  7\n"
    assert output.lacking_in(real) == []
    assert output.lacking_in(real.replace("E/P/D", "LOAD")) == ["POD   ROLE     E/P/D"]
    assert output.lacking_in(real.replace("decode  7", "prefill 7")) == ["decode  3"]
    elsewhere = Output("docs/seeing.md", output.line, output.key, output.lines)
    assert elsewhere.lacking_in("POD ROLE E/P/D") == []


def test_a_command_that_does_not_work_is_found(tmp_path: Path) -> None:
    with pytest.raises(CommandFailedError, match=r"page\.md:7: epd chit"):
        Desk(tmp_path).run(Command("page.md", 7, ".venv/bin/epd chit 'x'"))


def test_commands_are_found_as_a_reader_would_type_them() -> None:
    page = """
```sh
make env   # a comment
# another
epd plan --rate 10 \\
  --slower 1
for i in 1 2; do
  echo $i
done; wait
```

```yaml
make: no command
```
"""
    assert [(each.line, each.key) for each in commands_of("p", page)] == [
        (3, "make env"),
        (5, "epd plan --rate 10 --slower 1"),
        (7, "for i in 1 2; do echo $i done; wait"),
    ]
    hidden = "```\nepd top\n```\nwords\n\n    make demo  # indented\n\n```text\nepd --help\n```\n"
    assert list(stray_commands_of("p", hidden)) == ["p:2: epd top", "p: make demo  # indented"]

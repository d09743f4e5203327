"""`epd simulate` and `epd plan`, from the command line to the numbers."""

import json
from pathlib import Path

import pytest
from documented_commands import outputs

from epd_cli.__main__ import main

QUICK = ["--seconds", "20", "--rate", "4"]


def test_simulate_compares_policies_and_says_what_it_rests_on(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["simulate", "smooth", "--policy", "elastic,colocated", *QUICK]) == 0
    out = capsys.readouterr().out
    for word in ("elastic", "colocated", "H200", "p90 of gaps", "fluid limit", "seed 1"):
        assert word in out


def test_equal_seeds_write_equal_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    texts = []
    for name in ("one", "two"):
        file = tmp_path / name
        main(["simulate", "--policy", "elastic", *QUICK, "--json", str(file)])
        texts.append(file.read_text())
    assert texts[0] == texts[1]
    document = json.loads(texts[0])
    assert document["loads"][0]["policies"][0]["policy"] == "elastic"


def test_plots_show_each_run_and_attainment_over_rate(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    arguments = ["--policy", "elastic", "--seconds", "10", "--rate", "2,4"]
    assert main(["simulate", "smooth", *arguments, "--plots", str(tmp_path)]) == 0
    drawn = sorted(path.name for path in tmp_path.iterdir())
    assert drawn == ["elastic-2.png", "elastic-4.png", "goodput.png"]


def test_plan_names_the_smallest_fleet_that_meets_the_objective(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["plan", "smooth", *QUICK, "-o", "json"]) == 0
    plans = json.loads(capsys.readouterr().out)["plans"]
    assert {plan["method"] for plan in plans} == {"EPD", "EP-D", "ED-P", "E-P-D"}
    met = [plan["pods"] for plan in plans if plan["meets_slo"]]
    assert plans[0]["pods"] == min(met)
    for plan in plans:
        assert sum(plan["split"].values()) == plan["pods"]


def test_plan_says_when_no_fleet_is_large_enough_below_the_table_that_a_page_shows(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["plan", "smooth", "--seconds", "20", "--rate", "60", "--pods", "3"]) == 1
    said = capsys.readouterr().out
    assert "No method meets the SLO" in said
    (shown,) = (each for each in outputs() if each.key.startswith("epd plan "))
    assert shown.lacking_in(said) == []


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["simulate", "nosuch"], ["scenario 'nosuch'", "smooth"]),
        (["simulate", "--policy", "best"], ["policy 'best'", "elastic"]),
        (["simulate", "--method", "PD"], ["--method PD", "E-P-D"]),
        (["simulate", "--model", "x"], ["model 'x'", "qwen3-vl-8b-h200"]),
        (["simulate", "--trace", "azure:/no/such.csv"], ["/no/such.csv", "No such file"]),
        (["simulate", "--trace", "burst:x"], ["burst:x", "servegen"]),
        (["simulate", "--pods", "2"], ["--pods 2", "at least 3"]),
        (["plan", "smooth", "--seconds", "0.001"], ["no request comes", "--seconds"]),
    ],
)
def test_what_cannot_be_simulated_is_refused_in_one_line(
    arguments: list[str], words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) in (1, 2)
    error = capsys.readouterr().err
    assert len(error.strip().splitlines()) == 1
    for word in words:
        assert word in error


def test_a_curves_file_is_a_model_and_its_mistakes_are_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "curves.yaml"
    file.write_text("source: measured on a Tuesday\nprefill_ms: [[0, 1.0], [100, 2.0]]\n")
    arguments = ["simulate", "smooth", "--policy", "elastic", *QUICK, "--model", str(file)]
    assert main(arguments) == 0
    assert "measured on a Tuesday" in capsys.readouterr().out
    file.write_text("prefill_ms: [[100, 1.0], [0, 2.0]]\n")
    assert main(arguments) == 1
    assert "prefill_ms: the first numbers of the pairs must rise" in capsys.readouterr().err

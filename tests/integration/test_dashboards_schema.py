"""The dashboards by Grafana's own published types, compiled by tsc; needs npm and its registry."""

import copy
import json
from pathlib import Path
from typing import Any

import pytest
from gen_monitoring import DASHBOARDS
from monitoring import schema_check
from monitoring.boards import BOARDS

pytestmark = pytest.mark.timeout(300)


@pytest.fixture(scope="module")
def compiler(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("schema")
    try:
        schema_check.install(folder)
    except schema_check.SchemaUnavailableError as error:
        pytest.skip(str(error))
    return folder


def documents() -> list[dict[str, Any]]:
    return [json.loads((DASHBOARDS[0] / f"{board.uid}.json").read_text()) for board in BOARDS]


def test_grafanas_types_have_nothing_against_the_dashboards(compiler: Path) -> None:
    assert schema_check.complaints(compiler, documents()) == []


def test_a_value_that_grafana_does_not_know_is_found(compiler: Path) -> None:
    broken = copy.deepcopy(documents()[0])
    broken["graphTooltip"] = 7
    broken["panels"][0]["titel"] = "misspelt"
    said = "\n".join(schema_check.complaints(compiler, [broken]))
    assert "Type '7' is not assignable" in said
    assert "titel" in said

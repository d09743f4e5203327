"""docs/api.md says what the models say, and what it promises to answer is answered."""

import re
from pathlib import Path

import pytest

from epd.api import docs, parse_cluster
from epd.api.fields import walk
from epd.api.problems import ClusterError
from epd.api.v1alpha1 import EPDCluster
from epd.vocabulary import API_VERSION, KIND

PAGE = Path(__file__).parents[2] / "docs" / "api.md"


def test_the_field_tables_are_those_of_the_models() -> None:
    page = PAGE.read_text(encoding="utf-8")
    assert page == docs.with_field_tables(page), "run `make gen`"


def test_every_field_has_a_meaning() -> None:
    lacking = [path for path, info in walk(EPDCluster) if not info.description]
    assert not lacking


def test_a_page_without_marks_is_not_written_over() -> None:
    with pytest.raises(ValueError, match="lacks its marks"):
        docs.with_field_tables("# Something else\n")


def test_the_first_example_of_the_page_is_accepted() -> None:
    text = re.search(r"```yaml\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    assert text is not None
    assert parse_cluster(text[1]).spec.replicas == 8


BASE = f"apiVersion: {API_VERSION}\nkind: {KIND}\nmetadata: {{name: a}}\nspec:\n"
MODEL = "  model: {source: m, servedName: m}\n"
MANIFESTS = [
    f"{BASE}  model: {{source: m, servedname: m, servedName: m}}\n  replicas: 3\n",
    f"{BASE}{MODEL}  servedName: m\n  replicas: 3\n",
    f"{BASE}{MODEL}  replicas: 3\n  engine: {{type: vllm}}\n",
    f'{BASE}{MODEL}  replicas: "3"\n',
    f"{BASE}{MODEL}  replicas: 3\n  roles: [{{name: Encode}}, {{name: Decode, min: 2, max: 1}}]\n",
    f"{BASE}{MODEL}  replicas: 2\n  method: E-P-D\n",
    f"{BASE}{MODEL}  replicas: 3\n  roles: [{{name: Encode}}, {{name: Encode}}]\n",
    f"{BASE}{MODEL}  replicas: 3\n  method: EP-D\n  roles: [{{name: Encode}}]\n",
    f"{BASE}{MODEL}  replicas: 3\n  engine: {{type: Simulated, args: [--enforce-eager]}}\n",
    f"{BASE}{MODEL}  replicas: 3\n  engine: {{args: [--port=1]}}\n",
    f"{BASE}{MODEL}  replicas: 3\n  engine: {{args: [--dtype float32]}}\n",
    f"{BASE}{MODEL}\n  a: b: c\n",
    f"{BASE}{MODEL}  replicas: 3\n\n\n  replicas: 3\n",
    f"{BASE}{MODEL}  replicas: 3\n---\nkind: Service\n",
]


def test_every_answer_in_the_table_of_refusals_is_the_one_given() -> None:
    page = PAGE.read_text(encoding="utf-8")
    section = page.partition("## What is refused")[2].partition("## Fields")[0]
    promised = re.findall(r"^\| [^|]+ \| `(.+)` \|$", section, re.MULTILINE)
    given = []
    for text in MANIFESTS:
        with pytest.raises(ClusterError) as caught:
            parse_cluster(text)
        given += [str(problem) for problem in caught.value.problems]
    assert given == promised

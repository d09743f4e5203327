"""The shared words: what they are, that they are distinct, and what a wrong one is answered."""

import ast
import itertools
import re
import sys
from pathlib import Path

import pytest

from epd import vocabulary
from epd.vocabulary import DEFAULT_PORTS, Env, Method, PortName, Role, Stage

LABEL_KEY = re.compile(r"[a-z0-9.-]{1,253}/[a-z0-9]([-a-z0-9_.]{0,61}[a-z0-9])?")
LABEL_VALUE = re.compile(r"[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?")


def test_there_is_one_role_for_every_set_of_stages_but_the_empty_one() -> None:
    sets = {
        frozenset(chosen) for size in (1, 2, 3) for chosen in itertools.combinations(Stage, size)
    }
    assert {role.stages for role in Role} == sets
    assert len(Role) == len(sets) == 7
    for stages in sets:
        assert Role.of(stages).stages == stages


def test_a_role_of_no_stage_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one stage"):
        Role.of([])


def test_a_role_is_read_back_from_its_label_value() -> None:
    assert [Role.parse(str(role)) for role in Role] == list(Role)


@pytest.mark.parametrize("text", ["", "Encode", "decode ", "decode-prefill", "encode,decode"])
def test_an_unknown_role_is_answered_with_the_allowed_values(text: str) -> None:
    with pytest.raises(ValueError, match="unknown role") as caught:
        Role.parse(text)
    assert repr(text) in str(caught.value)
    for role in Role:
        assert role.value in str(caught.value)


@pytest.mark.parametrize("method", list(Method))
def test_the_roles_of_a_method_cover_every_stage_exactly_once(method: Method) -> None:
    stages = [stage for role in method.roles for stage in role.stages]
    assert sorted(stages) == sorted(Stage)


def test_the_letters_of_a_method_are_the_stages_of_its_roles() -> None:
    for method in Method:
        parts = [{s.value[0].upper() for s in role.stages} for role in method.roles]
        assert parts == [set(part) for part in method.value.split("-")]


def test_label_keys_and_values_are_ones_kubernetes_accepts() -> None:
    for key in (
        vocabulary.ROLE_LABEL,
        vocabulary.LLM_D_ROLE_LABEL,
        vocabulary.CLUSTER_LABEL,
        vocabulary.COMPONENT_LABEL,
        vocabulary.FINALIZER,
    ):
        assert LABEL_KEY.fullmatch(key), key
    for value in (*Role, *vocabulary.Component):
        assert LABEL_VALUE.fullmatch(value), value


def test_every_port_has_a_legal_name_and_a_default_of_its_own() -> None:
    assert set(DEFAULT_PORTS) == set(PortName)
    assert len(set(DEFAULT_PORTS.values())) == len(PortName)
    for name, port in DEFAULT_PORTS.items():
        assert re.fullmatch(r"[a-z][a-z0-9-]{0,14}", name)
        assert 1024 < port < 32768


def test_environment_variables_are_spelt_after_their_names() -> None:
    for variable in Env:
        assert variable.value == f"EPD_{variable.name}"


def test_the_vocabulary_imports_the_standard_library_only() -> None:
    tree = ast.parse(Path(vocabulary.__file__).read_text(encoding="utf-8"))
    imported = {
        name.split(".")[0]
        for node in ast.walk(tree)
        for name in (
            [alias.name for alias in node.names]
            if isinstance(node, ast.Import)
            else [node.module or ""]
            if isinstance(node, ast.ImportFrom)
            else []
        )
    }
    assert imported <= set(sys.stdlib_module_names)

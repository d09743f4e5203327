"""The operator's command line: what it means, and how it refuses what means nothing."""

from pathlib import Path

import pytest

from epd_operator.settings import GATEWAY_IMAGE, WORKER_IMAGE, parse_arguments


def test_nothing_need_be_said() -> None:
    settings = parse_arguments([], {})
    assert settings.namespaces == ()
    assert settings.lease_namespace == ""
    assert (settings.liveness_port, settings.metrics_port) == (8081, 9100)
    assert (settings.images.worker, settings.images.gateway) == (WORKER_IMAGE, GATEWAY_IMAGE)
    assert settings.kubeconfig is None


def test_every_option_reaches_its_setting() -> None:
    words = (
        "--namespace a --namespace b --lease-namespace c --identity me --liveness-port 1"
        " --metrics-port 0 --worker-image w:1 --gateway-image g:1 --kubeconfig f"
    )
    settings = parse_arguments(words.split(), {"KUBECONFIG": "other"})
    assert settings.namespaces == ("a", "b")
    assert (settings.lease_namespace, settings.identity) == ("c", "me")
    assert (settings.liveness_port, settings.metrics_port) == (1, 0)
    assert (settings.images.worker, settings.images.gateway) == ("w:1", "g:1")
    assert settings.kubeconfig == Path("f")


def test_the_environment_names_the_server_where_nothing_else_does() -> None:
    assert parse_arguments([], {"KUBECONFIG": "one:two"}).kubeconfig == Path("one")


@pytest.mark.parametrize(
    ("words", "what"),
    [
        (["--namespace", "Not_One"], "--namespace Not_One"),
        (["--liveness-port", "99999"], "invalid port value"),
        (["--worker-image", ""], "--worker-image"),
        (["--namespac", "a"], "unrecognized arguments"),
    ],
)
def test_a_mistake_is_told(words: list[str], what: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        parse_arguments(words, {})
    assert end.value.code == 2
    assert what in capsys.readouterr().err

"""The worker's command line: what it means, and how it refuses what means nothing."""

from pathlib import Path

import pytest

from epd_worker.settings import parse_arguments

EVERY_OPTION = (
    "--name w1 --listen 0.0.0.0:9 --engine vllm --model org/m --served-name m --cost-curves c"
    " --seed 5 --side-channel-host 10.0.0.1 --kv-side-channel-port 11"
    " --ec-side-channel-port 12 --kv-lease-s 1.5 --ec-lease-s 2 --tls-cert a --tls-key b"
    " --tls-ca d --grace-s 3 --exit-with-parent -- --max-model-len 2048 --"
)


def test_nothing_but_the_engine_is_needed_for_a_simulated_worker() -> None:
    settings = parse_arguments(["--engine", "simulated", "--name", "w0"])
    assert settings.listen == "127.0.0.1:7000"
    assert settings.tls is None
    assert not settings.exit_with_parent
    assert settings.engine.name == "w0"
    assert settings.engine.served_name == settings.engine.model == "simulated"
    assert settings.engine.side_channel_host == "127.0.0.1"
    assert settings.engine.cost_curves is None


def test_every_option_reaches_its_setting() -> None:
    settings = parse_arguments(EVERY_OPTION.split())
    engine = settings.engine
    assert (settings.name, settings.listen, settings.engine_type) == ("w1", "0.0.0.0:9", "vllm")
    assert (engine.model, engine.served_name, engine.name) == ("org/m", "m", "w1")
    assert (engine.cost_curves, engine.seed) == (Path("c"), 5)
    assert engine.side_channel_host == "10.0.0.1"
    assert (engine.kv_side_channel_port, engine.ec_side_channel_port) == (11, 12)
    assert (engine.kv_lease_s, engine.ec_lease_s) == (1.5, 2.0)
    assert settings.tls is not None
    assert (settings.tls.certificate, settings.tls.key) == (Path("a"), Path("b"))
    assert settings.tls.authority == Path("d")
    assert (settings.grace_s, settings.exit_with_parent) == (3.0, True)
    assert engine.engine_args == ["--max-model-len", "2048", "--"]


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ("--engine fast", "invalid choice: 'fast'"),
        ("--engine vllm", "--engine vllm needs --model"),
        ("--engine simulated --listen 7000", "--listen 7000: HOST:PORT was expected"),
        ("--engine simulated --listen a:b", "--listen a:b: HOST:PORT was expected"),
        ("--engine simulated --listen a:70000", "HOST:PORT was expected"),
        ("--engine simulated --metrics-listen 7001", "--metrics-listen 7001: HOST:PORT was"),
        ("--engine simulated --listen 0.0.0.0:7", "needs --side-channel-host"),
        ("--engine simulated --listen [::]:7", "needs --side-channel-host"),
        ("--engine simulated --kv-lease-s 0", "invalid number of seconds value: '0'"),
        ("--engine simulated --ec-lease-s soon", "invalid number of seconds value: 'soon'"),
        ("--engine simulated --kv-side-channel-port 70000", "invalid port value"),
        ("--engine simulated --tls-cert a", "--tls-cert, --tls-key and --tls-ca go together"),
        ("--engine simulated --time-scale 3", "unrecognized arguments: --time-scale 3"),
    ],
)
def test_a_mistake_is_told_and_ends_with_status_2(
    arguments: str, complaint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        parse_arguments(arguments.split())
    assert ended.value.code == 2
    assert complaint in capsys.readouterr().err.splitlines()[-1]

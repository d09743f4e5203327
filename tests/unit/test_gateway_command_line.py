"""The command line: what it says, and what it says about mistakes."""

import socket

import pytest

from epd_gateway.access import ApiKeys
from epd_gateway.command_line import parse_arguments
from epd_gateway.settings import SettingsError
from epd_gateway.supervisor import child_arguments, reserve_port

REQUIRED = ["--roster-file", "roster.json"]


def parse(*argv, environment=None):
    return parse_arguments([*REQUIRED, *argv], environment or {})


def test_defaults_need_a_roster_only():
    options = parse()
    assert (options.settings.listen.host, options.settings.listen.port) == ("127.0.0.1", 8000)
    assert options.admin_port is None
    assert options.model == ""


def test_the_roster_comes_from_a_file_or_from_kubernetes():
    options = parse_arguments(["--kubernetes-cluster", "demo", "--namespace", "prod"], {})
    assert (options.kubernetes_cluster, options.namespace) == ("demo", "prod")
    assert options.roster_file is None


@pytest.mark.parametrize(
    "argv",
    [
        [],
        ["--kubernetes-cluster", ""],
        [*REQUIRED, "--kubernetes-cluster", "demo"],
        [*REQUIRED, "--namespace", "prod"],
    ],
)
def test_a_roster_from_nowhere_or_from_two_places_is_a_mistake(argv, capsys):
    with pytest.raises(SystemExit):
        parse_arguments(argv, {})
    assert "epd-gateway: error: " in capsys.readouterr().err


def test_addresses_are_host_and_port():
    options = parse("--listen", "0.0.0.0:80", "--admin-listen", "[::1]:0")
    assert (options.settings.listen.host, options.settings.listen.port) == ("0.0.0.0", 80)
    assert (options.admin_host, options.admin_port) == ("::1", 0)


def test_any_setting_can_be_set():
    options = parse("--set", "limits.max_body_bytes=5", "--set", "deadlines.prefill_s=1.5")
    assert options.settings.limits.max_body_bytes == 5
    assert options.settings.deadlines.prefill_s == 1.5


def test_the_command_line_wins_over_the_environment():
    environment = {"EPD_GATEWAY_LISTEN__PORT": "1", "EPD_GATEWAY_RETRIES__MAX_REPLAYS": "7"}
    options = parse("--listen", "h:2", environment=environment)
    assert options.settings.listen.port == 2
    assert options.settings.retries.max_replays == 7


@pytest.mark.parametrize(
    "argv",
    [
        ["--listen", "8000"],
        ["--listen", "host:"],
        ["--listen", "host:99999"],
        ["--admin-listen", "x:y"],
        ["--set", "limits.max_body_bytes"],
        ["--set", "limits.unknown=1"],
        ["--set", "limits.max_body_bytes=-1"],
        ["--set", "nothing=1"],
        ["--processes", "0"],
        ["--bogus"],
        ["--set", "listen.tls_key=key.pem"],
        ["--set", "workers.tls_certificate=c.pem"],
    ],
)
def test_a_mistake_is_one_line_and_status_2(argv, capsys):
    with pytest.raises(SystemExit) as exit_:
        parse(*argv)
    assert exit_.value.code == 2
    assert capsys.readouterr().err.splitlines()[-1].startswith("epd-gateway: error: ")


def test_each_process_has_an_admin_port_of_its_own():
    argv = [*REQUIRED, "--listen", "[::1]:0", "--admin-listen", "127.0.0.1:900", "--processes", "3"]
    options = parse_arguments(argv, {})
    children = [
        parse_arguments(child_arguments(options, argv, 8123, index), {}) for index in range(3)
    ]
    assert [child.admin_port for child in children] == [900, 901, 902]
    for child in children:
        assert (child.settings.listen.host, child.settings.listen.port) == ("::1", 8123)
        assert (child.processes, child.share_port, child.exit_with_parent) == (1, True, True)


def test_a_port_that_is_taken_is_a_mistake():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(SettingsError, match=f"cannot listen on 127.0.0.1:{port}"):
            reserve_port(parse("--listen", f"127.0.0.1:{port}"))


def test_keys_are_read_one_a_line(tmp_path):
    path = tmp_path / "keys"
    path.write_text("# ours\nsesame\n\n  open  \n")
    keys = ApiKeys.read(path)
    keys.check("Bearer sesame")
    keys.check("bearer open")


@pytest.mark.parametrize("content", [None, b"", b"# none\n", b"\xff\xfe"])
def test_a_key_file_without_keys_is_a_mistake_not_an_open_door(tmp_path, content):
    path = tmp_path / "keys"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(SettingsError, match="API keys"):
        ApiKeys.read(path)

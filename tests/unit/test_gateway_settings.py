"""Settings: defaults, the command line over the environment, and one-line complaints."""

from pathlib import Path

import pytest
from pydantic import ValidationError

from epd_gateway.settings import HttpLimits, Settings, SettingsError


def test_nothing_given_means_the_defaults() -> None:
    assert Settings.load({}, {"HOME": "/", "EPD_GATEWAY": "x"}) == Settings()


def test_variables_that_kubernetes_sets_for_a_service_are_not_ours() -> None:
    environment = {
        "EPD_GATEWAY_SERVICE_HOST": "10.0.0.1",
        "EPD_GATEWAY_PORT": "tcp://10.0.0.1:8000",
        "EPD_GATEWAY_PORT_8000_TCP_PORT": "8000",
    }
    assert Settings.load({}, environment) == Settings()


def test_the_command_line_wins_over_the_environment() -> None:
    settings = Settings.load(
        {"listen.port": "9000"},
        {"EPD_GATEWAY_LISTEN__PORT": "1", "EPD_GATEWAY_LIMITS__MAX_BODY_BYTES": "5"},
    )
    assert (settings.listen.port, settings.limits.max_body_bytes) == (9000, 5)


def test_lists_are_written_with_commas() -> None:
    settings = Settings.load(
        {"media.allowed_domains": "a.test, b.test", "media.allowed_ports": "80"}, {}
    )
    assert settings.media.allowed_domains == ("a.test", "b.test")
    assert settings.media.allowed_ports == (80,)


@pytest.mark.parametrize(
    ("name", "value", "complaint"),
    [
        ("listen.port", "99999", "setting listen.port: "),
        ("listen.prot", "1", "setting listen.prot: "),
        ("lisen.port", "1", "setting lisen: "),
        ("port", "1", "setting 'port': expected GROUP.NAME, one of listen, limits"),
        ("limits.max_body_bytes", "0", "setting limits.max_body_bytes: "),
        ("limits.max_body_bytes", "many", "setting limits.max_body_bytes: "),
        ("deadlines.encode_s", "-1", "setting deadlines.encode_s: "),
        ("listen.tls_key", "key.pem", "setting listen: "),
    ],
)
def test_a_wrong_setting_is_named_in_one_line(name: str, value: str, complaint: str) -> None:
    with pytest.raises(SettingsError) as caught:
        Settings.load({name: value}, {})
    assert str(caught.value).startswith(complaint)
    assert "\n" not in str(caught.value)


def test_certificate_and_key_come_together() -> None:
    settings = Settings.load({"listen.tls_key": "k", "listen.tls_certificate": "c"}, {})
    assert settings.listen.tls_key == Path("k")


def test_settings_cannot_be_changed() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        HttpLimits().max_body_bytes = 1  # type: ignore[misc]

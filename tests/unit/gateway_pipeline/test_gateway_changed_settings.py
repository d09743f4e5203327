"""Settings that change while the gateway runs, by a file that is replaced."""

import logging

import pytest
from fake_cluster import until

from epd.vocabulary import Role
from epd_gateway.settings import Settings, SettingsError
from epd_gateway.settings_file import CHANGEABLE, SettingsSource

EPD = Role.ENCODE_PREFILL_DECODE
QUICK = {"listen": {"files_poll_s": 0.005}}
TTFT = ("epd_slo_limit_seconds", {"objective": "ttft"})


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "settings"
    path.write_text("# of the cluster\n\nslo.ttft_ms = 800\nlimits.max_body_bytes=5000\n")
    return path


def replace(file, text):
    """Exchange the file as a kubelet does: at once, and for another one."""
    fresh = file.with_suffix(".new")
    fresh.write_text(text)
    fresh.replace(file)


def given(file, arguments=(), environment=()):
    return {"settings_source": SettingsSource(dict(arguments), dict(environment), file)}


def test_the_command_line_wins_over_the_file_and_the_file_over_the_environment(file):
    environment = {"EPD_GATEWAY_SLO__TTFT_MS": "1", "EPD_GATEWAY_SLO__TPOT_MS": "2"}
    settings = SettingsSource({"limits.max_body_bytes": "7"}, environment, file).read()
    assert (settings.slo.ttft_ms, settings.slo.tpot_ms) == (800, 2)
    assert settings.limits.max_body_bytes == 7


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ("slo.ttft_ms", "GROUP.NAME=VALUE was expected"),
        ("slo.ttft_ms=soon", "slo.ttft_ms"),
        ("slo.attainment_percent=101", "slo.attainment_percent"),
        ("listen.port=1", "listen.port is none that may stand here"),
        ("slo.ttft=1", "slo.ttft is none that may stand here"),
    ],
)
def test_a_mistake_in_the_file_is_told_in_one_line(file, line, complaint):
    file.write_text(line)
    with pytest.raises(SettingsError, match=complaint) as told:
        SettingsSource({}, {}, file).read()
    assert "\n" not in str(told.value)


def test_a_file_that_is_not_there_is_a_mistake(tmp_path):
    with pytest.raises(SettingsError, match="No such file"):
        SettingsSource({}, {}, tmp_path / "none").read()


def test_every_setting_that_may_change_exists():
    groups = {name.partition(".")[0] for name in CHANGEABLE}
    known = {
        f"{group}.{name}"
        for group in groups
        for name in type(getattr(Settings(), group)).model_fields
    }
    assert known >= CHANGEABLE


async def test_another_objective_is_told_and_counted_against_at_once(make_cluster, file):
    cluster = await make_cluster(QUICK, given(file), a=EPD)
    name, labels = TTFT
    await cluster.stream()
    met = ("epd_slo_answers_total", {"objective": "ttft", "images": "0", "verdict": "met"})
    assert cluster.metric(met[0], **met[1]) == 1
    replace(file, "slo.ttft_ms=0.001\nslo.tpot_ms=70\nslo.attainment_percent=95\n")
    await until(lambda: cluster.metric(name, **labels) == pytest.approx(1e-6))
    await cluster.stream()
    missed = {**met[1], "verdict": "missed"}
    assert cluster.metric(met[0], **missed) == 1
    told = (await cluster.admin.get("/snapshot")).json()["slo"]
    assert (told["ttft_ms"], told["tpot_ms"], told["attainment_percent"]) == (0.001, 70, 95)


async def test_other_limits_hold_from_the_next_request_on_and_on_the_same_connection(
    make_cluster, file, picture, tmp_path
):
    keys = tmp_path / "keys"
    keys.write_text("sesame")
    options = {**given(file), "key_file": keys}
    cluster = await make_cluster(QUICK, options, a=EPD)
    cluster.client.headers["authorization"] = "Bearer sesame"
    two = {"images": [picture(1), picture(2)]}
    assert (await cluster.chat(**two)).status_code == 200
    name, labels = TTFT
    replace(file, "slo.ttft_ms=1\nmedia.max_images=1\n")
    await until(lambda: cluster.metric(name, **labels) == pytest.approx(1e-3))
    assert (await cluster.chat(**two)).status_code == 400
    replace(file, "slo.ttft_ms=2\nlimits.max_body_bytes=20\n")
    await until(lambda: cluster.metric(name, **labels) == pytest.approx(2e-3))
    assert (await cluster.chat()).status_code == 413
    replace(file, "slo.ttft_ms=3\nkeys.max_per_minute=1\n")
    await until(lambda: cluster.metric(name, **labels) == pytest.approx(3e-3))
    statuses = [(await cluster.chat()).status_code for _ in range(2)]
    assert statuses[-1] == 429


async def test_whatever_makes_no_sense_leaves_the_last_settings(make_cluster, file, caplog):
    caplog.set_level(logging.WARNING)
    cluster = await make_cluster(QUICK, given(file), a=EPD)
    replace(file, "slo.ttft_ms=700\n")
    name, labels = TTFT
    await until(lambda: cluster.metric(name, **labels) == pytest.approx(0.7))
    replace(file, "slo.ttft_ms=600\nlisten.port=1\n")
    await until(lambda: "listen.port" in caplog.text)
    file.unlink()
    await until(lambda: "No such file" in caplog.text)
    assert cluster.metric(name, **labels) == pytest.approx(0.7)
    assert (await cluster.chat()).status_code == 200

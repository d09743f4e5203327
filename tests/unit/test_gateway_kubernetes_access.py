"""The way to the API server: a pod's own account, a kubeconfig, and complaints of one line."""

import base64
import ssl

import pytest
import yaml

from epd_gateway.kubernetes_access import Kubeconfig, ServiceAccount, find_access
from epd_gateway.settings import SettingsError


def kubeconfig(folder, user=None, cluster=None, **context):
    path = folder / "config"
    server = {"server": "http://127.0.0.1:1/", **(cluster or {})}
    path.write_text(
        yaml.safe_dump(
            {
                "current-context": "c",
                "contexts": [
                    {"name": "other", "context": {}},
                    {"name": "c", "context": {"cluster": "k", "user": "u", **context}},
                ],
                "clusters": [{"name": "k", "cluster": server}],
                "users": [{"name": "u", "user": user or {}}],
            }
        )
    )
    return Kubeconfig(path)


def test_a_kubeconfig_gives_address_namespace_and_token(tmp_path):
    server = kubeconfig(tmp_path, {"token": "t"}, namespace="prod").open()
    assert (server.url, server.namespace) == ("http://127.0.0.1:1", "prod")
    assert server.authorization() == {"authorization": "Bearer t"}


def test_a_token_file_is_read_at_each_request(tmp_path):
    (tmp_path / "token").write_text("one\n")
    server = kubeconfig(tmp_path, {"tokenFile": "token"}).open()
    assert server.authorization() == {"authorization": "Bearer one"}
    (tmp_path / "token").write_text("two\n")
    assert server.authorization() == {"authorization": "Bearer two"}


def test_without_a_namespace_it_is_default_and_without_a_token_nothing_is_shown(tmp_path):
    server = kubeconfig(tmp_path).open()
    assert server.namespace == "default"
    assert server.authorization() == {}


def test_a_server_may_be_trusted_blindly_if_the_kubeconfig_says_so(tmp_path):
    cluster = {"server": "https://127.0.0.1:1", "insecure-skip-tls-verify": True}
    server = kubeconfig(tmp_path, cluster=cluster).open()
    assert server.tls is not None
    assert server.tls.verify_mode == ssl.CERT_NONE


@pytest.mark.parametrize(
    ("user", "cluster", "complaint"),
    [
        ({"exec": {}}, {}, "users: exec is not supported here"),
        ({"username": "u", "password": "p"}, {}, "users: password is not supported here"),
        ({}, {"server": "nowhere"}, "clusters: server is not a URL"),
        ({}, {"server": "https://h", "certificate-authority-data": "%"}, "is not base64"),
        ({}, {"server": "https://h", "certificate-authority": "missing"}, "authority"),
        (
            {"client-certificate-data": base64.b64encode(b"x").decode()},
            {"server": "https://h"},
            "client-certificate",
        ),
    ],
)
def test_what_a_kubeconfig_lacks_is_told_in_one_line(tmp_path, user, cluster, complaint):
    with pytest.raises(SettingsError, match=complaint) as caught:
        kubeconfig(tmp_path, user, cluster).open()
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("content", [None, "", "{", "[]", "current-context: x"])
def test_a_file_that_is_no_kubeconfig_is_a_mistake(tmp_path, content):
    path = tmp_path / "config"
    if content is not None:
        path.write_text(content)
    with pytest.raises(SettingsError) as caught:
        Kubeconfig(path).open()
    assert "\n" not in str(caught.value)


def test_a_pod_uses_its_own_account_and_a_kubeconfig_wins(tmp_path):
    environment = {"KUBERNETES_SERVICE_HOST": "fd00::1", "KUBERNETES_SERVICE_PORT": "6443"}
    assert find_access(environment) == ServiceAccount("fd00::1", "6443")
    assert isinstance(find_access({**environment, "KUBECONFIG": "/a:/b"}), Kubeconfig)
    with pytest.raises(SettingsError, match="no API server"):
        find_access({})


def test_an_account_without_its_files_is_a_mistake(tmp_path):
    with pytest.raises(SettingsError, match=r"ca\.crt"):
        ServiceAccount("127.0.0.1", "443", tmp_path).open()

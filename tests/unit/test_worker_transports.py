"""What `spec.transport.type` makes UCX use."""

from pathlib import Path

import pytest

from epd.api.names import TransportType
from epd_worker.engine.settings import SettingsError
from epd_worker.engine.transports import TRANSPORTS, ucx_tls
from epd_worker.settings import parse_arguments

WORKER = ["--engine", "vllm", "--model", "m", "--listen", "127.0.0.1:0"]


@pytest.fixture
def devices(tmp_path: Path) -> Path:
    (tmp_path / "uverbs0").touch()
    return tmp_path


def test_a_worker_knows_the_types_of_the_manifest() -> None:
    assert set(TRANSPORTS) == set(TransportType)


@pytest.mark.parametrize(
    ("transport", "cuda", "expected"),
    [
        ("Auto", False, ""),
        ("Auto", True, ""),
        ("TCP", False, "tcp,self"),
        ("TCP", True, "tcp,self,cuda_copy"),
        ("SharedMemory", False, "sm,tcp,self"),
        ("SharedMemory", True, "sm,tcp,self,cuda"),
        ("RDMA", False, "ib,self"),
        ("RDMA", True, "ib,self,cuda"),
    ],
)
def test_a_type_holds_ucx_to_its_transports(
    transport: str, cuda: bool, expected: str, devices: Path
) -> None:
    assert ucx_tls(transport, cuda=cuda, devices=devices) == expected


def test_rdma_without_a_device_is_refused_with_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"no device in .*rdmaResourceName.*Auto"):
        ucx_tls("RDMA", cuda=True, devices=tmp_path)
    with pytest.raises(SettingsError, match="no device"):
        ucx_tls("RDMA", cuda=True, devices=tmp_path / "absent")


def test_a_worker_takes_its_transport_from_the_command_line() -> None:
    assert parse_arguments(WORKER).engine.transport == "Auto"
    assert parse_arguments([*WORKER, "--transport", "TCP"]).engine.transport == "TCP"

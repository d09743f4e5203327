"""Limits of a key, and files of keys and certificates that are replaced while we run."""

import math
import os
from pathlib import Path

import pytest

from epd_gateway.access import ApiKeys, KeyUse, read_keys
from epd_gateway.errors import NotAuthenticated, RateLimited
from epd_gateway.followed_files import FollowedFiles
from epd_gateway.settings import KeyLimits

NO_LIMITS = KeyLimits()


def test_without_limits_a_key_is_never_refused():
    use = KeyUse(0, 0, 0)
    for _ in range(1000):
        use.enter(NO_LIMITS, 0)
    assert use.in_flight == 1000


def test_a_minutes_requests_may_come_at_once_and_then_one_by_one():
    limits = KeyLimits(max_per_minute=3)
    use = KeyUse(0, 3, 0)
    for _ in range(3):
        use.enter(limits, 0)
    with pytest.raises(RateLimited) as caught:
        use.enter(limits, 1)
    assert caught.value.retry_after_s == 19
    use.enter(limits, 1 + caught.value.retry_after_s)
    with pytest.raises(RateLimited):
        use.enter(limits, 1 + caught.value.retry_after_s)


def test_credit_never_grows_past_a_minute():
    limits = KeyLimits(max_per_minute=2)
    use = KeyUse(0, 2, 0)
    for _ in range(2):
        use.enter(limits, 1e6)
    with pytest.raises(RateLimited):
        use.enter(limits, 1e6)


def test_a_refused_request_is_not_in_flight():
    limits = KeyLimits(max_in_flight=1, max_per_minute=1)
    use = KeyUse(0, 1, 0)
    use.enter(limits, 0)
    with pytest.raises(RateLimited, match="in flight"):
        use.enter(limits, 0)
    use.leave()
    with pytest.raises(RateLimited, match="a minute"):
        use.enter(limits, 0)
    assert use.in_flight == 0


def test_whoever_waits_as_long_as_told_is_served():
    for per_minute in (1, 7, 59, 61, 1000):
        limits = KeyLimits(max_per_minute=per_minute)
        use = KeyUse(0, 0, 0)
        with pytest.raises(RateLimited) as caught:
            use.enter(limits, 0)
        wait_s = caught.value.retry_after_s
        assert wait_s == math.ceil(60 / per_minute)
        use.enter(limits, wait_s)


def test_a_key_that_stays_keeps_its_count_when_keys_are_replaced():
    keys = ApiKeys(frozenset({"a", "b"}), KeyLimits(max_in_flight=1))
    keys.enter("Bearer a")
    keys.replace(frozenset({"a", "c"}))
    with pytest.raises(RateLimited):
        keys.enter("Bearer a")
    keys.enter("Bearer c")
    with pytest.raises(NotAuthenticated):
        keys.enter("Bearer b")


class MountedSecret:
    """A Secret as the kubelet mounts it: a link to a folder that is swapped as a whole."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._count = 0
        (folder / "keys").symlink_to("..data/keys")

    def put(self, content: bytes | None) -> Path:
        self._count += 1
        fresh = self._folder / f"..{self._count}"
        fresh.mkdir()
        if content is not None:
            (fresh / "keys").write_bytes(content)
        (self._folder / "..data_tmp").symlink_to(fresh.name)
        os.rename(self._folder / "..data_tmp", self._folder / "..data")
        return self._folder / "keys"


@pytest.fixture
def secret(tmp_path):
    return MountedSecret(tmp_path)


def followed(path):
    keys = ApiKeys.read(path)
    return keys, FollowedFiles("API keys", [path], lambda: keys.replace(read_keys(path)))


def test_a_secret_is_read_again_once_the_kubelet_swaps_it(secret, caplog):
    caplog.set_level("INFO")
    keys, files = followed(secret.put(b"one\n"))
    files.look()
    keys.check("Bearer one")
    secret.put(b"two\n")
    files.look()
    files.look()
    keys.check("Bearer two")
    with pytest.raises(NotAuthenticated):
        keys.check("Bearer one")
    assert [record.getMessage() for record in caplog.records] == ["API keys: read anew"]


@pytest.mark.parametrize("broken", [None, b"", b"# none\n", b"\xff\xfe"])
def test_a_secret_that_breaks_leaves_the_last_good_keys_and_is_told_of_once(secret, caplog, broken):
    keys, files = followed(secret.put(b"one\n"))
    secret.put(broken)
    files.look()
    files.look()
    keys.check("Bearer one")
    with pytest.raises(NotAuthenticated):
        keys.check("Bearer other")
    (record,) = caplog.records
    assert "the last good ones stay" in record.getMessage()
    assert "\n" not in record.getMessage()
    secret.put(b"two\n")
    files.look()
    keys.check("Bearer two")

"""Keys are compared as hashes and never shown; a server for this machine answers to its own names only."""

from __future__ import annotations

from pathlib import Path

import pytest

from halcyon.host.errors import BadConfiguration
from halcyon.host.local_names import is_loopback
from halcyon.serving.access import Keys, check_host, read_keys
from halcyon.serving.errors import ApiError

FIRST, SECOND = "first-key-0123456789", "second-key-0123456789"


def test_keys_come_from_a_file_and_a_variable(tmp_path: Path) -> None:
    file = tmp_path / "keys"
    file.write_text(f"# of the team\n\n{FIRST}\n")
    keys = read_keys(file, {"HALCYON_API_KEY": SECOND})
    first, second = (keys.check(f"Bearer {key}") for key in (FIRST, SECOND))
    assert first == keys.check(f"bearer  {FIRST} ") != second
    for header in ("", "Bearer", f"Basic {FIRST}", f"Bearer {FIRST}x", "Bearer schlüssel", FIRST):
        with pytest.raises(ApiError) as refused:
            keys.check(header)
        assert refused.value.status == 401
        assert "key-0" not in str(refused.value)
    assert FIRST not in repr(vars(keys))
    assert Keys(()).check("Bearer x") == b""  # no key: every client may ask


@pytest.mark.parametrize("text", ["", "# nothing\n"])
def test_a_file_without_a_key_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "keys").write_text(text)
    with pytest.raises(BadConfiguration, match="has no key; write one a line"):
        read_keys(tmp_path / "keys", {})


@pytest.mark.parametrize("key", ["short", "with a space in it all", "schlüssel-0123456789", "x" * 513])
def test_a_weak_key_is_refused_without_showing_it(key: str) -> None:
    with pytest.raises(BadConfiguration, match="API key 1: a key has 16 to 512 visible ASCII characters") as refused:
        Keys([key])
    assert key not in str(refused.value)


def test_a_server_for_this_machine_answers_to_its_own_names() -> None:
    for host in ("localhost", "localhost:8000", "LocalHost", "[::1]", "127.0.0.1:8000", "[::1]:8000", ""):
        check_host(host)
    for host in (
        "evil.example",
        "evil.example:8000",
        "10.0.0.1",
        "localhost.evil.example",
        "127.0.0.1.evil.example:80",
    ):
        with pytest.raises(ApiError, match="answers only to localhost"):
            check_host(host)
    assert [is_loopback(host) for host in ("127.0.0.1", "::1", "0.0.0.0", "::", "192.168.0.7")] == [
        True,
        True,
        False,
        False,
        False,
    ]

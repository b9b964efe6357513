"""The virtual link (veth) between host and node, on the kernel of this machine."""

import os
import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest

from halcyon_devcluster import namespaces
from halcyon_devcluster.commands import run

LINK = "hly-unplug"
may_make_links = pytest.mark.skipif(
    os.geteuid() != 0 or not Path("/usr/sbin/ip").exists(), reason="only root can create links"
)


@pytest.fixture
def link() -> Path:
    """A link with both ends in the host's namespace."""
    if subprocess.run(["ip", "link", "add", LINK, "type", "veth"], check=False, capture_output=True).returncode != 0:
        pytest.skip("this machine cannot create links")
    return Path("/sys/class/net") / LINK


@may_make_links
def test_unplugging_removes_the_link_and_may_be_repeated(link: Path):
    namespaces.remove_link(LINK)
    assert not link.exists()
    namespaces.remove_link(LINK)


@may_make_links
def test_the_kernel_may_remove_the_link_first(link: Path, monkeypatch: pytest.MonkeyPatch):
    """As when the last process of the node ends between the check and the command."""

    def too_late(argv: Sequence[str | Path]) -> str:
        subprocess.run(argv, check=True)
        return run(argv)

    monkeypatch.setattr(namespaces, "run", too_late)
    namespaces.remove_link(LINK)
    assert not link.exists()

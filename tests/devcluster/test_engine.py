"""The machine decides the backend; for a machine without any, the error names the fix."""

import pytest

from halcyon_devcluster import DevclusterError
from halcyon_devcluster.debian import refusal
from halcyon_devcluster.engine import Backend, choose


@pytest.mark.parametrize(
    ("docker", "is_linux", "is_root", "requested", "backend"),
    [
        (True, True, True, None, Backend.KIND),
        (True, False, False, None, Backend.KIND),
        (True, True, False, None, Backend.KIND),
        (False, True, True, None, Backend.NATIVE),
        (True, True, True, "native", Backend.NATIVE),
        (False, True, True, "kind", Backend.KIND),
        (False, True, True, "", Backend.NATIVE),
    ],
)
def test_docker_wins_unless_another_is_requested(
    docker: bool, is_linux: bool, is_root: bool, requested: str | None, backend: Backend
):
    assert choose(docker=docker, is_linux=is_linux, is_root=is_root, requested=requested) is backend


@pytest.mark.parametrize(
    ("is_linux", "is_root", "requested", "sentence"),
    [
        (False, True, None, "only Linux .* start Docker"),
        (True, False, None, "needs root: start Docker, or run as root"),
        (True, True, "minikube", "HALCYON_BACKEND='minikube' must be"),
    ],
)
def test_a_missing_backend_is_reported_in_one_sentence(
    is_linux: bool, is_root: bool, requested: str | None, sentence: str
):
    with pytest.raises(DevclusterError, match=sentence):
        choose(docker=False, is_linux=is_linux, is_root=is_root, requested=requested)


def test_packages_are_named_when_they_may_not_be_installed():
    assert refusal(["runc"], is_root=True, has_apt=True) is None
    assert "runc" in (refusal(["runc"], is_root=False, has_apt=True) or "")
    assert "Debian or Ubuntu" in (refusal(["runc"], is_root=True, has_apt=False) or "")

"""The rendered configuration: valid for the parsers of its formats, complete, and with the settings that experience has
shown to be necessary."""

from pathlib import Path

from halcyon_devcluster import components
from halcyon_devcluster.files import filesystem_type, mounted_below


def test_a_variable_of_the_user_replaces_that_of_the_components():
    assert components.environment({"GOGC": "50", "HOME": "/root"}) == components.environment({}) | {
        "GOGC": "50",
        "HOME": "/root",
    }


def test_mounts_are_found_at_and_below_a_folder():
    mounts = "a /state ext4 rw 0 0\nb /state/x tmpfs rw 0 0\nc /statement tmpfs rw 0 0\n"
    assert mounted_below(Path("/state"), mounts) == ["/state", "/state/x"]


def test_the_file_system_of_a_folder_is_that_of_the_nearest_mount():
    mounts = "overlay / overlay rw 0 0\n/dev/sda /data ext4 rw 0 0\ntmpfs /data/x tmpfs rw 0 0\n"
    assert filesystem_type(Path("/home/a/.cache"), mounts) == "overlay"
    assert filesystem_type(Path("/data/halcyon"), mounts) == "ext4"
    assert filesystem_type(Path("/data/x/y"), mounts) == "tmpfs"
    assert filesystem_type(Path("/database"), mounts) == "overlay"

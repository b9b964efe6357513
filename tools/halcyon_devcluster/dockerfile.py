"""Reads a Dockerfile and its context: build arguments, input files, and the hash that becomes the image's tag.

Pure, except for reading files.
"""

import hashlib
import re
from collections.abc import Iterable, Mapping
from pathlib import Path

from halcyon_devcluster.errors import DevclusterError

# Environment variables that a build may need to reach package indexes from this machine.
PASSED_ON = (
    "HTTP_PROXY",
    "HTTPS_PROXY",
    "NO_PROXY",
    "PIP_CERT",
    "PIP_DEFAULT_TIMEOUT",
    "PIP_EXTRA_INDEX_URL",
    "PIP_INDEX_URL",
    "PIP_TRUSTED_HOST",
    "REQUESTS_CA_BUNDLE",
    "SSL_CERT_FILE",
    "UV_DEFAULT_INDEX",
    "UV_INDEX",
    "UV_INDEX_URL",
    "UV_NATIVE_TLS",
    "UV_SYSTEM_CERTS",
)
CERTIFICATE_SETTINGS = ("PIP_CERT", "REQUESTS_CA_BUNDLE", "SSL_CERT_FILE")
_SKIPPED_FOLDERS = {"__pycache__"}


def instructions(text: str) -> list[str]:
    """Return the instructions of a Dockerfile, with continuation lines joined and without comments and blank lines."""
    kept = [line for line in text.splitlines() if not line.lstrip().startswith("#")]
    joined = re.sub(r"\\\s*\n", " ", "\n".join(kept))
    return [line.strip() for line in joined.splitlines() if line.strip()]


def declared_arguments(text: str) -> set[str]:
    """Return the names of all ARG instructions."""
    found = (re.match(r"ARG\s+([A-Za-z_][A-Za-z0-9_]*)", line, re.IGNORECASE) for line in instructions(text))
    return {match[1] for match in found if match}


def default_argument(text: str, name: str) -> str:
    """Return the default value of ARG `name`.

    Raises:
        DevclusterError: the Dockerfile sets no default.
    """
    found = (re.match(rf"ARG\s+{re.escape(name)}=(\S+)", line, re.IGNORECASE) for line in instructions(text))
    values = [match[1] for match in found if match]
    if not values:
        raise DevclusterError(
            f"The Dockerfile gives ARG {name} no value: write `ARG {name}=...` before its first FROM."
        )
    return values[0]


def copied_paths(text: str) -> list[str]:
    """Return the paths that COPY and ADD take from the context, without those from other stages."""
    paths: set[str] = set()
    for line in instructions(text):
        keyword, *words = line.split()
        if keyword.upper() in ("COPY", "ADD") and not any(word.startswith("--from=") for word in words):
            paths.update([word for word in words if not word.startswith("--")][:-1])
    return sorted(paths)


def input_files(context: Path, paths: Iterable[str]) -> list[Path]:
    """Return every file below the copied paths, sorted, without byte code.

    Raises:
        DevclusterError: a copied path does not exist.
    """
    found: set[Path] = set()
    for name in paths:
        path = context / name
        if path.is_file():
            found.add(path)
        elif path.is_dir():
            found.update(file for file in path.rglob("*") if file.is_file() and not _SKIPPED_FOLDERS & set(file.parts))
        else:
            raise DevclusterError(f"{path} is copied by the Dockerfile but does not exist: fix the COPY line.")
    return sorted(found)


def content_tag(dockerfile: Path, context: Path, build_args: Mapping[str, str]) -> str:
    """Return 16 hexadecimal digits over the Dockerfile, the files that it copies, the ignore file and the build
    arguments.
    """
    text = dockerfile.read_text()
    digest = hashlib.sha256(text.encode())
    ignore = context / ".dockerignore"
    files = input_files(context, copied_paths(text)) + ([ignore] if ignore.is_file() else [])
    for path in files:
        executable = "x" if path.stat().st_mode & 0o100 else "-"
        digest.update(
            f"{path.relative_to(context)} {executable} {hashlib.sha256(path.read_bytes()).hexdigest()}\n".encode()
        )
    for name in sorted(build_args):
        digest.update(f"{name}={build_args[name]}\n".encode())
    return digest.hexdigest()[:16]


def passed_arguments(declared: Iterable[str], environ: Mapping[str, str], *, with_certificates: bool) -> dict[str, str]:
    """Return the variables of the environment that the Dockerfile declares as ARG.

    Args:
        declared: Names of the Dockerfile's arguments.
        environ: This process's environment.
        with_certificates: Whether the build can read this machine's certificate files.
    """
    allowed = set(declared) & set(PASSED_ON)
    if not with_certificates:
        allowed -= set(CERTIFICATE_SETTINGS)
    return {name: environ[name] for name in sorted(allowed) if environ.get(name)}

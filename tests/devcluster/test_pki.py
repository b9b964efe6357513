"""Certificates that Kubernetes accepts: one authority, correct names, correct groups, and private keys that only their
owner can read.
"""

from datetime import UTC, datetime
from ipaddress import IPv4Network
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import load_pem_private_key, load_pem_public_key

from halcyon_devcluster import pki
from halcyon_devcluster.addresses import Addresses

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
ADDRESSES = Addresses("halcyon", IPv4Network("10.100.0.0/16"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pki") / "pki"
    pki.create(folder, ADDRESSES, NOW)
    return folder


def certificate(folder: Path, name: str) -> x509.Certificate:
    return x509.load_pem_x509_certificate((folder / f"{name}.crt").read_bytes())


def test_private_keys_are_private_and_fit(folder: Path):
    assert folder.stat().st_mode & 0o077 == 0
    for path in folder.glob("*.key"):
        assert path.stat().st_mode & 0o077 == 0
        key = load_pem_private_key(path.read_bytes(), None)
        if path.stem != "service-accounts":
            assert certificate(folder, path.stem).public_key() == key.public_key()
    accounts = load_pem_private_key((folder / "service-accounts.key").read_bytes(), None)
    assert load_pem_public_key((folder / "service-accounts.pub").read_bytes()) == accounts.public_key()

"""Certificates that Kubernetes accepts: one authority, correct names, correct groups, and private keys that only their
owner can read.
"""

import base64
from datetime import UTC, datetime, timedelta
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import load_pem_private_key, load_pem_public_key
from cryptography.x509.oid import NameOID
from cryptography.x509.verification import PolicyBuilder, Store

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


@pytest.mark.parametrize("subject", ["10.100.255.2", "10.100.128.1", "127.0.0.1", "kubernetes.default.svc"])
def test_the_api_server_is_trusted_under_every_name_it_is_called_by(folder: Path, subject: str):
    name = x509.IPAddress(IPv4Address(subject)) if subject[0].isdigit() else x509.DNSName(subject)
    builder = PolicyBuilder().store(Store([certificate(folder, "ca")])).time(NOW + timedelta(days=300))
    assert len(builder.build_server_verifier(name).verify(certificate(folder, "apiserver"), [])) == 2


def test_the_certificate_of_the_api_server_expires_after_a_year(folder: Path):
    builder = PolicyBuilder().store(Store([certificate(folder, "ca")])).time(NOW + timedelta(days=366))
    with pytest.raises(x509.verification.VerificationError):
        builder.build_server_verifier(x509.DNSName("kubernetes")).verify(certificate(folder, "apiserver"), [])


@pytest.mark.parametrize(
    ("file", "user", "group"),
    [
        ("admin", "halcyon-admin", "system:masters"),
        ("node", "system:node:halcyon", "system:nodes"),
        ("scheduler", "system:kube-scheduler", None),
        ("controller-manager", "system:kube-controller-manager", None),
        ("proxy", "system:kube-proxy", None),
    ],
)
def test_clients_carry_the_user_and_group_of_kubernetes_built_in_roles(
    folder: Path, file: str, user: str, group: str | None
):
    subject = certificate(folder, file).subject
    assert subject.get_attributes_for_oid(NameOID.COMMON_NAME)[0].value == user
    groups = [attribute.value for attribute in subject.get_attributes_for_oid(NameOID.ORGANIZATION_NAME)]
    assert groups == ([group] if group else [])


def test_private_keys_are_private_and_fit(folder: Path):
    assert folder.stat().st_mode & 0o077 == 0
    for path in folder.glob("*.key"):
        assert path.stat().st_mode & 0o077 == 0
        key = load_pem_private_key(path.read_bytes(), None)
        if path.stem != "service-accounts":
            assert certificate(folder, path.stem).public_key() == key.public_key()
    accounts = load_pem_private_key((folder / "service-accounts.key").read_bytes(), None)
    assert load_pem_public_key((folder / "service-accounts.pub").read_bytes()) == accounts.public_key()


def test_a_kubeconfig_needs_no_other_file(folder: Path):
    config = pki.kubeconfig(folder, "admin", "https://10.100.255.2:6443", "halcyon")
    (user,), (cluster,) = config["users"], config["clusters"]  # type: ignore[misc]
    assert base64.b64decode(user["user"]["client-certificate-data"]) == (folder / "admin.crt").read_bytes()
    assert base64.b64decode(cluster["cluster"]["certificate-authority-data"]) == (folder / "ca.crt").read_bytes()

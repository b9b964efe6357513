"""Keys and certificates of one cluster, and kubeconfigs that contain them.

One certificate authority, made with the cluster, signs everything: the serving certificates of the API server and the
kubelet, and one client certificate per component. The common name and organisation of a client certificate are the user
and group that Kubernetes' built-in roles expect.
"""

import base64
import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

import yaml
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from halcyon_devcluster.addresses import CLUSTER_DOMAIN, Addresses

_LIFETIME = timedelta(days=365)
_SKEW = timedelta(hours=1)
API_SERVER_NAMES = (
    "localhost",
    "kubernetes",
    "kubernetes.default",
    "kubernetes.default.svc",
    f"kubernetes.default.svc.{CLUSTER_DOMAIN}",
)


@dataclass(frozen=True)
class Identity:
    """A certificate to be made.

    Attributes:
        file: Name of the files `FILE.crt` and `FILE.key`.
        user: Common name; Kubernetes' user name for client certificates.
        group: Organisation; Kubernetes' group.
        names: DNS names and addresses, for serving certificates.
    """

    file: str
    user: str
    group: str = ""
    names: tuple[str, ...] = ()


def identities(addresses: Addresses) -> list[Identity]:
    """Return every certificate that the cluster needs besides its authority. Pure."""
    node = str(addresses.node)
    return [
        Identity(
            "apiserver", "kube-apiserver", names=(*API_SERVER_NAMES, "127.0.0.1", node, str(addresses.api_service))
        ),
        Identity("apiserver-kubelet-client", "kube-apiserver-kubelet-client", "system:masters"),
        Identity("admin", "halcyon-admin", "system:masters"),
        Identity("controller-manager", "system:kube-controller-manager"),
        Identity("scheduler", "system:kube-scheduler"),
        Identity("proxy", "system:kube-proxy"),
        *of_node(addresses),
    ]


def of_node(addresses: Addresses) -> list[Identity]:
    """Return the certificates of a node. Pure."""
    name = addresses.name
    return [
        Identity("kubelet", f"system:node:{name}", names=(name, str(addresses.node))),
        Identity("node", f"system:node:{name}", "system:nodes"),
    ]


def _write_private(path: Path, content: bytes) -> None:
    path.touch(mode=0o600)
    path.write_bytes(content)


def _write_key(path: Path) -> ec.EllipticCurvePrivateKey:
    key = ec.generate_private_key(ec.SECP256R1())
    _write_private(path, key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    return key


def _name(user: str, group: str = "") -> x509.Name:
    parts = [x509.NameAttribute(NameOID.ORGANIZATION_NAME, group)] if group else []
    return x509.Name([*parts, x509.NameAttribute(NameOID.COMMON_NAME, user)])


def _alternative_names(names: Sequence[str]) -> x509.SubjectAlternativeName:
    entries: list[x509.GeneralName] = []
    for name in names:
        try:
            entries.append(x509.IPAddress(ipaddress.ip_address(name)))
        except ValueError:
            entries.append(x509.DNSName(name))
    return x509.SubjectAlternativeName(entries)


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey, now: datetime
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _SKEW)
        .not_valid_after(now + _LIFETIME)
    )


def _usage(*, authority: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=True,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=authority,
        crl_sign=authority,
        encipher_only=False,
        decipher_only=False,
    )


def create(folder: Path, addresses: Addresses, now: datetime) -> None:
    """Write the authority, every identity and the key pair of service-account tokens into `folder`.

    Args:
        folder: The target; made if missing, readable only for its owner.
        addresses: The addresses for the serving certificates.
        now: Current time, time-zone aware; the certificates are valid from one hour before it until one year after it.
    """
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    authority_key = _write_key(folder / "ca.key")
    authority = _name("halcyon-devcluster-ca")
    certificate = (
        _builder(authority, authority, authority_key.public_key(), now)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(authority=True), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(authority_key.public_key()), critical=False)
        .sign(authority_key, hashes.SHA256())
    )
    (folder / "ca.crt").write_bytes(certificate.public_bytes(Encoding.PEM))
    issue(folder, folder, identities(addresses), now)
    accounts = _write_key(folder / "service-accounts.key")
    public = accounts.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    (folder / "service-accounts.pub").write_bytes(public)


def issue(authority: Path, folder: Path, wanted: Sequence[Identity], now: datetime) -> None:
    """Write identities of an authority into a folder.

    Args:
        authority: The folder of the authority.
        folder: The target.
        wanted: The identities.
        now: See `create`.
    """
    signer = load_pem_private_key((authority / "ca.key").read_bytes(), None)
    issuer = x509.load_pem_x509_certificate((authority / "ca.crt").read_bytes())
    assert isinstance(signer, ec.EllipticCurvePrivateKey)  # noqa: S101
    for identity in wanted:
        key = _write_key(folder / f"{identity.file}.key")
        purpose = ExtendedKeyUsageOID.SERVER_AUTH if identity.names else ExtendedKeyUsageOID.CLIENT_AUTH
        builder = (
            _builder(_name(identity.user, identity.group), issuer.subject, key.public_key(), now)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_usage(authority=False), critical=True)
            .add_extension(x509.ExtendedKeyUsage([purpose]), critical=False)
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key()),
                critical=False,
            )
        )
        if identity.names:
            builder = builder.add_extension(_alternative_names(identity.names), critical=False)
        signed = builder.sign(signer, hashes.SHA256())
        (folder / f"{identity.file}.crt").write_bytes(signed.public_bytes(Encoding.PEM))


def kubeconfig(folder: Path, identity: str, server: str, cluster: str) -> dict[str, object]:
    """Return a self-contained kubeconfig document for one identity of `folder`."""

    def embedded(file: str) -> str:
        return base64.b64encode((folder / file).read_bytes()).decode()

    return {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [
            {"name": cluster, "cluster": {"server": server, "certificate-authority-data": embedded("ca.crt")}}
        ],
        "users": [
            {
                "name": identity,
                "user": {
                    "client-certificate-data": embedded(f"{identity}.crt"),
                    "client-key-data": embedded(f"{identity}.key"),
                },
            }
        ],
        "contexts": [{"name": cluster, "context": {"cluster": cluster, "user": identity}}],
        "current-context": cluster,
    }


def write_kubeconfig(path: Path, folder: Path, identity: str, server: str, cluster: str) -> None:
    """Write the kubeconfig of one identity to `path`, readable only for its owner."""
    _write_private(path, yaml.safe_dump(kubeconfig(folder, identity, server, cluster), sort_keys=False).encode())

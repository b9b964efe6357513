"""Signatures of statements: DSSE envelopes, with keys of Ed25519 or ECDSA.

The signed bytes are the pre-authentication encoding of DSSE, which holds the type of the payload
(https://github.com/secure-systems-lab/dsse/blob/master/protocol.md). ECDSA uses the hash that fits its curve.
"""

import base64
import binascii
import hashlib
from pathlib import Path
from typing import Any

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519

from halcyon.commands.attestation.documents import PAYLOAD_TYPE, Envelope, Unacceptable, shown
from halcyon.commands.options import text_of
from halcyon.host.errors import BadConfiguration
from halcyon_api.checkpoint_documents import canonical_json
from halcyon_api.counting import counted

PASSPHRASE = "HALCYON_KEY_PASSPHRASE"  # noqa: S105 - the name of a variable
"""Environment variable with the passphrase of a private key."""
_MOST_KEY_BYTES = 64 * 2**10
_HASHES = {
    "secp256r1": hashes.SHA256(),
    "secp384r1": hashes.SHA384(),
    "secp521r1": hashes.SHA512(),
}
_OTHER_KIND = "the key is of another kind; give a key of Ed25519, or of ECDSA on the curve P-256, P-384 or P-521"

PrivateKey = ed25519.Ed25519PrivateKey | ec.EllipticCurvePrivateKey
PublicKey = ed25519.Ed25519PublicKey | ec.EllipticCurvePublicKey


def load_private_key(path: Path, passphrase: str | None) -> PrivateKey:
    """The private key of a PEM file.

    Args:
        path: The file.
        passphrase: Of the key; None: it has none.

    Raises:
        BadConfiguration: The file has no such key or cannot be read, or the passphrase is missing or wrong.
    """
    data = text_of(path, _MOST_KEY_BYTES).encode()
    try:
        key = serialization.load_pem_private_key(data, None if passphrase is None else passphrase.encode())
    except TypeError:
        fix = f"set {PASSPHRASE}" if passphrase is None else f"unset {PASSPHRASE}"
        has = "a passphrase" if passphrase is None else "no passphrase"
        raise BadConfiguration(f"{path}: the key has {has}; {fix}") from None
    except (ValueError, UnsupportedAlgorithm):
        wrong = "" if passphrase is None else f", or {PASSPHRASE} is wrong"
        raise BadConfiguration(f"{path}: this is not a private key in PEM{wrong}") from None
    return _of_known_kind(path, key)


def load_public_key(path: Path) -> PublicKey:
    """The public key of a PEM file.

    Raises:
        BadConfiguration: The file has no such key, or cannot be read.
    """
    try:
        key = serialization.load_pem_public_key(text_of(path, _MOST_KEY_BYTES).encode())
    except (ValueError, UnsupportedAlgorithm):
        raise BadConfiguration(f"{path}: this is not a public key in PEM") from None
    return _of_known_kind(path, key)


def _of_known_kind(path: Path, key: Any) -> Any:
    curve = getattr(key, "curve", None)
    if not isinstance(key, PrivateKey | PublicKey) or (curve is not None and curve.name not in _HASHES):
        raise BadConfiguration(f"{path}: {_OTHER_KIND}")
    return key


def _scheme(key: PrivateKey | PublicKey) -> tuple[Any, ...]:
    """What a signature is made with, beside the key and the data."""
    curve = getattr(key, "curve", None)
    return () if curve is None else (ec.ECDSA(_HASHES[curve.name]),)


def sign(payload: bytes, key: PrivateKey) -> bytes:
    """The envelope of a payload, as canonical JSON. The id of the key is the SHA-256 of its public part in DER."""
    signed = encoding(PAYLOAD_TYPE, payload)
    signature = key.sign(signed, *_scheme(key))
    public = key.public_key().public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    return canonical_json(
        {
            "payload": base64.b64encode(payload).decode(),
            "payloadType": PAYLOAD_TYPE,
            "signatures": [{"keyid": hashlib.sha256(public).hexdigest(), "sig": base64.b64encode(signature).decode()}],
        }
    )


def open_envelope(envelope: Envelope, key: PublicKey) -> bytes:
    """The payload of an envelope that a key has signed.

    Raises:
        Unacceptable: None of its signatures is by this key, or the payload is of another type.
    """
    if envelope.payload_type != PAYLOAD_TYPE:
        raise Unacceptable(f"has a payload of type {shown(envelope.payload_type)}, not {PAYLOAD_TYPE}")
    payload = _from_base64(envelope.payload)
    signed = encoding(envelope.payload_type, payload)
    if not any(_is_by(key, _from_base64(signature.sig), signed) for signature in envelope.signatures):
        raise Unacceptable(f"is not signed by this key ({counted(len(envelope.signatures), 'signature')} tried)")
    return payload


def encoding(payload_type: str, payload: bytes) -> bytes:
    """The pre-authentication encoding of DSSE, version 1."""
    name = payload_type.encode()
    return b"DSSEv1 %d %b %d %b" % (len(name), name, len(payload), payload)


def _is_by(key: PublicKey, signature: bytes, signed: bytes) -> bool:
    try:
        key.verify(signature, signed, *_scheme(key))
    except InvalidSignature:
        return False
    return True


def _from_base64(text: str) -> bytes:
    """The bytes of a text in base64, of either alphabet. Each has one text, so a changed letter is never ignored.

    Raises:
        Unacceptable: It is no such text.
    """
    standard = text.translate(str.maketrans("-_", "+/"))
    try:
        data = base64.b64decode(standard, validate=True)
    except (binascii.Error, ValueError):
        raise Unacceptable("has a text that is not base64") from None
    if base64.b64encode(data).decode().rstrip("=") != standard.rstrip("="):
        raise Unacceptable("has a text that is not base64")
    return data

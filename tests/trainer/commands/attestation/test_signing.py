"""Envelopes are those of DSSE: no other key, payload or type passes for what was signed."""

from __future__ import annotations

import base64
import json
import random
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)

from halcyon.commands.attestation import signing
from halcyon.commands.attestation.documents import Envelope, Unacceptable, parse, read_as
from halcyon.commands.attestation.signing import encoding, load_private_key, load_public_key, open_envelope, sign
from halcyon.host.errors import BadConfiguration

PAYLOAD = b'{"a":1}'
KEYS: dict[str, Any] = {
    "ed25519": ed25519.Ed25519PrivateKey.generate(),
    "p256": ec.generate_private_key(ec.SECP256R1()),
    "p384": ec.generate_private_key(ec.SECP384R1()),
    "p521": ec.generate_private_key(ec.SECP521R1()),
}


def private(folder: Path, key: Any, passphrase: bytes | None = None, name: str = "key.pem") -> Path:
    kind = NoEncryption() if passphrase is None else BestAvailableEncryption(passphrase)
    path = folder / name
    path.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, kind))
    return path


def public(folder: Path, key: Any, name: str = "key.pub") -> Path:
    path = folder / name
    path.write_bytes(key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    return path


def opened(envelope: Any, key: Any) -> bytes:
    text = envelope if isinstance(envelope, bytes | str) else json.dumps(envelope)
    return open_envelope(read_as(parse(text), Envelope), key.public_key())


def opens(envelope: Any, key: Any) -> bool:
    try:
        opened(envelope, key)
    except Unacceptable:
        return False
    return True


@pytest.mark.parametrize("name", KEYS)
def test_what_a_key_has_signed_opens_with_its_public_part_alone(name: str, tmp_path: Path) -> None:
    signed = sign(PAYLOAD, load_private_key(private(tmp_path, KEYS[name]), None))
    envelope = read_as(parse(signed), Envelope)
    assert open_envelope(envelope, load_public_key(public(tmp_path, KEYS[name]))) == PAYLOAD
    for other, key in KEYS.items():
        if other != name:
            with pytest.raises(Unacceptable, match="is not signed by this key"):
                open_envelope(envelope, key.public_key())


def test_the_encoding_and_the_envelope_are_those_of_the_specification(monkeypatch: pytest.MonkeyPatch) -> None:
    """The test vector of DSSE's protocol.md. It has the two numbers of the signature without a frame of DER."""
    kind = "http://example.com/HelloWorld"
    assert encoding(kind, b"hello world") == b"DSSEv1 29 http://example.com/HelloWorld 11 hello world"
    raw = base64.b64decode("A3JqsQGtVsJ2O2xqrI5IcnXip5GToJ3F+FnZ+O88SjtR6rDAajabZKciJTfUiHqJPcIAriEGAHTVeCUjW2JIZA==")
    framed = encode_dss_signature(int.from_bytes(raw[:32], "big"), int.from_bytes(raw[32:], "big"))
    signature = {"sig": base64.b64encode(framed).decode(), "keyid": "", "other": 1}
    envelope = {"payload": "aGVsbG8gd29ybGQ=", "payloadType": kind, "signatures": [signature], "more": None}
    key = ec.derive_private_key(
        97358161215184420915383655311931858321456579547487070936769975997791359926199, ec.SECP256R1()
    )
    with pytest.raises(Unacceptable, match=r"has a payload of type http://example\.com/HelloWorld"):
        opened(envelope, key)
    monkeypatch.setattr(signing, "PAYLOAD_TYPE", kind)
    assert opened(envelope, key) == b"hello world"


def test_one_signature_of_several_and_either_alphabet_are_enough() -> None:
    key = KEYS["ed25519"]
    payload = b'{"a":"\xc3\xbf\xc3\xbf>>>???"}'
    envelope, other = (json.loads(sign(payload, each)) for each in (key, KEYS["p256"]))
    envelope["signatures"] = [*other["signatures"], *envelope["signatures"]]
    assert opened(envelope, key) == payload
    swapped = str.maketrans("+/", "-_")
    assert envelope["payload"].translate(swapped) != envelope["payload"]
    envelope["payload"] = envelope["payload"].translate(swapped)
    assert opened(envelope, key) == payload


@pytest.mark.parametrize("name", ["ed25519", "p256"])
def test_a_hundred_changes_of_an_envelope_are_found(name: str) -> None:
    key, noise = KEYS[name], random.Random(7)
    signed = sign(PAYLOAD * 9, key)
    letters = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/="
    for turn in range(100):
        envelope = json.loads(signed)
        holder, member = noise.choice(
            [(envelope, "payload"), (envelope, "payloadType"), (envelope["signatures"][0], "sig")]
        )
        text = holder[member]
        place = noise.randrange(len(text))
        holder[member] = text[:place] + noise.choice(letters.replace(text[place], "")) + text[place + 1 :]
        assert not opens(envelope, key), f"turn {turn}: {member} {text} {holder[member]}"


def test_the_bits_of_a_letter_that_no_byte_uses_must_be_zero() -> None:
    key = KEYS["ed25519"]
    signed = json.loads(sign(PAYLOAD, key))
    for holder, member in ((signed, "payload"), (signed["signatures"][0], "sig")):
        text = holder[member]
        assert text.endswith("==")
        holder[member] = f"{text[:-3]}{chr(ord(text[-3]) + 1)}=="
        assert base64.b64decode(holder[member]) == base64.b64decode(text)
        assert not opens(signed, key)
        holder[member] = text
    assert opens(signed, key)


@pytest.mark.parametrize(
    "change",
    [
        {"signatures": []},
        {"signatures": [{"sig": ""}] * 65},
        {"signatures": [{"keyid": "a"}]},
        {"payload": "e30"},
        {"payload": 5},
        {"payload": "\ud800"},
        {"payload": "ü"},
    ],
)
def test_a_malformed_envelope_is_refused(change: dict[str, Any]) -> None:
    with pytest.raises(Unacceptable):
        opened(json.loads(sign(PAYLOAD, KEYS["p256"])) | change, KEYS["p256"])


def test_a_passphrase_comes_from_the_environment(tmp_path: Path) -> None:
    locked = private(tmp_path, KEYS["p256"], b"word")
    assert load_private_key(locked, "word").public_key() == KEYS["p256"].public_key()
    for path, passphrase, sentence in (
        (locked, None, "the key has a passphrase; set HALCYON_KEY_PASSPHRASE"),
        (locked, "wrong", "this is not a private key in PEM, or HALCYON_KEY_PASSPHRASE is wrong"),
        (private(tmp_path, KEYS["p256"], name="open.pem"), "word", "the key has no passphrase; unset"),
        (public(tmp_path, KEYS["p256"]), None, "this is not a private key in PEM"),
    ):
        with pytest.raises(BadConfiguration) as refused:
            load_private_key(path, passphrase)
        assert str(refused.value).startswith(f"{path}: {sentence}")


def test_a_key_of_another_kind_is_refused(tmp_path: Path) -> None:
    for key in (rsa.generate_private_key(65537, 2048), ec.generate_private_key(ec.SECP256K1())):
        for load in (
            lambda key=key: load_private_key(private(tmp_path, key), None),
            lambda key=key: load_public_key(public(tmp_path, key)),
        ):
            with pytest.raises(
                BadConfiguration, match="the key is of another kind; give a key of Ed25519, or of ECDSA"
            ):
                load()
    (tmp_path / "no").write_bytes(b"\xff\x00")
    with pytest.raises(BadConfiguration, match="no: it is no text in UTF-8"):
        load_public_key(tmp_path / "no")
    (tmp_path / "long").write_bytes(b"a" * 2**17)
    with pytest.raises(BadConfiguration, match="it is larger than 64 KiB"):
        load_public_key(tmp_path / "long")

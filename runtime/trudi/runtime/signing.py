"""Ed25519 signatures of a bundle's manifest, and so of every file in it. Needs the extra `sign`.

A key pair is two PEM files: KEY (PKCS #8, unencrypted, readable by its owner only) and KEY.pub. A signature says that
whoever holds KEY wrote this manifest; whose key that is, the one who passes KEY.pub around must know.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
import os
from pathlib import Path
from typing import TYPE_CHECKING

from trudi.runtime.errors import BundleError, TrudiRuntimeError, quoted
from trudi.runtime.reading import parse_json

if TYPE_CHECKING:
    from collections.abc import Callable

    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

ALGORITHM = "ed25519"
CONTEXT = b"trudi bundle manifest 1\n"  # Signed before the manifest, so that no signature of another thing fits.
MAX_KEY_BYTES = 1 << 14


class SigningError(TrudiRuntimeError):
    """A key that cannot be made, read or used, or the missing extra."""


def make_key_pair(path: Path) -> str:
    """Writes a new private key to `path` and its public key to `path`.pub; returns the key's id."""
    ed25519, serialization = _library()
    public_path = public_key_path(path)
    for file in (path, public_path):
        if os.path.lexists(file):
            raise SigningError(f"{file} exists already; a key is never overwritten, choose another name")
    private = ed25519.Ed25519PrivateKey.generate()
    pem = serialization.Encoding.PEM
    secret = private.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    public = private.public_key().public_bytes(pem, serialization.PublicFormat.SubjectPublicKeyInfo)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        for file, content, mode in ((path, secret, 0o600), (public_path, public, 0o644)):
            with os.fdopen(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as opened:
                opened.write(content)
    except OSError as error:
        raise SigningError(f"the key {path} cannot be written: {error.strerror}") from None
    return key_id(private.public_key())


def public_key_path(path: Path) -> Path:
    """Where the public key of the private key at `path` lies."""
    return path.with_name(path.name + ".pub")


def signer(path: Path) -> Callable[[bytes], bytes]:
    """A function from a manifest to the content of its signature file, by the private key in `path`."""
    private = _load_private(path)

    def sign(manifest: bytes) -> bytes:
        content = {
            "algorithm": ALGORITHM,
            "key_id": key_id(private.public_key()),
            "signature": base64.b64encode(private.sign(CONTEXT + manifest)).decode(),
        }
        return (json.dumps(content, indent=1) + "\n").encode()

    return sign


def verify(manifest: bytes, signature_file: bytes, trust: Path, where: str = "manifest.sig") -> str:
    """The id of the public key in `trust`, where it signed this manifest; BundleError where it did not."""
    public = _load_public(trust)
    from cryptography.exceptions import InvalidSignature

    signed_by, signature = parse_signature(signature_file, where)
    if signed_by != (trusted := key_id(public)):
        raise BundleError(
            f"{where}: signed by the key {signed_by}, and {trust} is the key {trusted}; trust the signer's key"
        )
    try:
        public.verify(signature, CONTEXT + manifest)
    except InvalidSignature:
        raise BundleError(
            f"{where}: the signature does not fit the manifest; the bundle was altered after signing"
        ) from None
    return trusted


def parse_signature(data: bytes, where: str) -> tuple[str, bytes]:
    """Key id and signature of a signature file; BundleError where it is malformed."""
    match parse_json(data, where):
        case {"algorithm": "ed25519", "key_id": str(signed_by), "signature": str(encoded), **rest} if not rest:
            pass
        case values:
            raise BundleError(f"{where} must hold algorithm {ALGORITHM}, key_id and signature; it holds {quoted(values)}")
    try:
        return signed_by, base64.b64decode(encoded, validate=True)
    except (binascii.Error, ValueError):
        raise BundleError(f"{where}: the signature is not base64") from None


def key_id(public: Ed25519PublicKey) -> str:
    """The first 16 hexadecimal digits of the public key's SHA-256."""
    return hashlib.sha256(public.public_bytes_raw()).hexdigest()[:16]


def _load_private(path: Path) -> Ed25519PrivateKey:
    ed25519, serialization = _library()
    try:
        key = serialization.load_pem_private_key(_read_key(path), password=None)
    except (ValueError, TypeError) as error:
        raise SigningError(
            f"{path} holds no unencrypted private key in PEM form ({error}); make one with `trudi keygen`"
        ) from None
    if not isinstance(key, ed25519.Ed25519PrivateKey):
        raise SigningError(f"{path} holds a {type(key).__name__}, not an Ed25519 key; make one with `trudi keygen`")
    return key


def _load_public(path: Path) -> Ed25519PublicKey:
    ed25519, serialization = _library()
    content = _read_key(path)
    if b"PRIVATE KEY" in content:
        raise SigningError(f"{path} is a private key; trust the public one, {public_key_path(path)}")
    try:
        key = serialization.load_pem_public_key(content)
    except ValueError as error:
        raise SigningError(
            f"{path} holds no public key in PEM form ({error}); `trudi keygen` writes it as KEY.pub"
        ) from None
    if not isinstance(key, ed25519.Ed25519PublicKey):
        raise SigningError(f"{path} holds a {type(key).__name__}, not an Ed25519 key; `trudi keygen` makes a pair")
    return key


def _read_key(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(MAX_KEY_BYTES)
    except OSError as error:
        raise SigningError(f"the key {path} cannot be read: {error.strerror}") from None


def _library():  # noqa: ANN202 - two modules of an optional package
    try:
        from cryptography.hazmat.primitives import serialization
        from cryptography.hazmat.primitives.asymmetric import ed25519
    except ImportError:
        raise SigningError("signatures need the package 'cryptography': pip install 'trudi[sign]'") from None
    return ed25519, serialization

"""Signatures: a bundle is trusted by the key that signed it, and by no other."""

import stat
from pathlib import Path

import pytest
from bundles import contract, go1_files, go1_values, refusal

from trudi.runtime.bundle import Bundle, manifest_json
from trudi.runtime.signing import SigningError, make_key_pair, signer
from trudi.runtime.writing import write_bundle


def keys(tmp_path) -> tuple[Path, Path]:
    make_key_pair(tmp_path / "key")
    return tmp_path / "key", tmp_path / "key.pub"


def test_a_signed_bundle_is_trusted_by_its_key_alone(tmp_path, go1):
    private, public = keys(tmp_path)
    assert stat.S_IMODE(private.stat().st_mode) == 0o600
    identity = make_key_pair(tmp_path / "other")
    for name in ("signed", "signed.zip"):
        path = write_bundle(tmp_path / name, go1, go1_files(), signer=signer(private))
        with Bundle.open(path, trust=public) as bundle:
            assert bundle.is_signed and bundle.trusted_key is not None
        assert f"is the key {identity}" in refusal(path, trust=tmp_path / "other.pub")
        with Bundle.open(path) as bundle:
            assert bundle.is_signed and bundle.trusted_key is None


def test_an_unsigned_bundle_is_refused_where_trust_is_asked_for(tmp_path, folder):
    assert "is not signed" in refusal(folder, trust=keys(tmp_path)[1])


def test_a_rewritten_bundle_does_not_keep_its_signature(tmp_path, go1):
    private, public = keys(tmp_path)
    path = write_bundle(tmp_path / "signed", go1, go1_files(), signer=signer(private))
    (path / "policy.onnx").write_bytes(b"evil")
    names = ("bundle.json", "golden.npz", "policy.onnx")
    (path / "manifest.json").write_bytes(manifest_json({name: (path / name).read_bytes() for name in names}))
    Bundle.open(path).close()
    assert "the signature does not fit the manifest" in refusal(path, trust=public)


@pytest.mark.parametrize(
    "spoil",
    [
        lambda text: text.replace("ed25519", "none"),
        lambda text: text.replace('"signature": "', '"signature": "!'),
        lambda text: text.replace('"signature": "', '"signature": "AAAA'),
        lambda text: "",
        lambda text: "[" * 100_000,
    ],
)
def test_a_spoiled_signature(tmp_path, go1, spoil):
    private, public = keys(tmp_path)
    path = write_bundle(tmp_path / "signed", go1, go1_files(), signer=signer(private))
    text = (path / "manifest.sig").read_text()
    (path / "manifest.sig").write_text(spoil(text))
    assert "manifest.sig" in refusal(path, trust=public)


def test_keys_of_the_wrong_kind(tmp_path, folder):
    from cryptography.hazmat.primitives import serialization as ser
    from cryptography.hazmat.primitives.asymmetric import ec

    private, _ = keys(tmp_path)
    other = ec.generate_private_key(ec.SECP256R1())
    (tmp_path / "ec").write_bytes(other.private_bytes(ser.Encoding.PEM, ser.PrivateFormat.PKCS8, ser.NoEncryption()))
    (tmp_path / "ec.pub").write_bytes(
        other.public_key().public_bytes(ser.Encoding.PEM, ser.PublicFormat.SubjectPublicKeyInfo)
    )
    locked = other.private_bytes(ser.Encoding.PEM, ser.PrivateFormat.PKCS8, ser.BestAvailableEncryption(b"x"))
    (tmp_path / "locked").write_bytes(locked)
    write_bundle(tmp_path / "signed", contract(go1_values()), go1_files(), signer=signer(private))
    for key, reason in {
        "ec": "not an Ed25519 key",
        "key.pub": "no unencrypted private key",
        "locked": "unencrypted",
    }.items():
        with pytest.raises(SigningError, match=reason):
            signer(tmp_path / key)
    for key, reason in {"ec.pub": "not an Ed25519 key", "key": "is a private key", "gone": "cannot be read"}.items():
        with pytest.raises(SigningError, match=reason):
            Bundle.open(tmp_path / "signed", trust=tmp_path / key)
    with pytest.raises(SigningError, match="never overwritten"):
        make_key_pair(private)


def test_the_missing_extra_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "cryptography.hazmat.primitives", None)
    with pytest.raises(SigningError, match=r"pip install 'trudi\[sign\]'"):
        make_key_pair(tmp_path / "key")

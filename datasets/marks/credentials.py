"""Content Credentials: a manifest by the C2PA standard, signed into a file, that says how it was made; and what a file has of them.

The signature is a person's: certificate chain and key are theirs. Whether the chain ends with somebody whom a reader trusts, the reader
decides; here a signature is `Valid` if it fits the file. Nothing is fetched: no time stamp, no list of trust, no manifest elsewhere.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..places.storage import atomic_path

SIGNED = (".mp4",)
GENERATED = "http://cv.iptc.org/newscodes/digitalsourcetype/trainedAlgorithmicMedia"
MAX_PEM = 1 << 20
SETTINGS = {"verify": {"remote_manifest_fetch": False, "ocsp_fetch": False, "verify_trust": False}}
NEEDS = "install the extra: pip install 'mutual-forcing[credentials]'"


@dataclass(frozen=True)
class Signer:
    """Files in PEM: the certificate chain, its own certificate first, and the private key, without a password."""

    chain: Path
    key: Path


@dataclass(frozen=True)
class Credentials:
    """What a file says of itself. state: Valid, Trusted or Invalid; generated: whether it says that a network made it; problems: codes."""

    state: str
    generator: str
    generated: bool
    signed_by: str
    problems: tuple[str, ...]


def check_signer(signer: Signer) -> Any:
    """Open both files.

    Raises:
        ValueError: the library is absent, or a file is none of ours to sign with.
    """
    c2pa = _library()
    from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
    from cryptography.hazmat.primitives.serialization import load_pem_private_key
    from cryptography.x509 import load_pem_x509_certificates

    chain, key = (_pem(field, path) for field, path in (("--c2pa-chain", signer.chain), ("--c2pa-key", signer.key)))
    try:
        opened = load_pem_private_key(key, None)
    except (ValueError, TypeError) as error:
        raise ValueError(f"--c2pa-key={str(signer.key)!r}: is no private key in PEM without a password; convert it") from error
    kinds = {256: "es256", 384: "es384", 521: "es512"}
    if isinstance(opened, ec.EllipticCurvePrivateKey):
        kind = kinds.get(opened.curve.key_size, "")
    else:
        kind = "ps256" if isinstance(opened, rsa.RSAPrivateKey) else "ed25519" if isinstance(opened, ed25519.Ed25519PrivateKey) else ""
    try:
        load_pem_x509_certificates(chain)
        return c2pa.Signer.from_info(c2pa.C2paSignerInfo(kind, chain, key, None))
    except (c2pa.C2paError, ValueError) as error:
        raise ValueError(f"--c2pa-chain={str(signer.chain)!r}: cannot sign with it ({_line(error)}); it needs a chain for C2PA") from error


def sign(source: Path, target: Path, signer: Any, version: str, about: Mapping[str, Any]) -> None:
    """Write `source` with a signed manifest as `target`, whole or not at all. signer: of `check_signer`; about: facts of the model.

    Raises:
        ValueError: it cannot be signed.
    """
    c2pa = _library()
    manifest = {
        "claim_generator_info": [{"name": "mutual-forcing", "version": version}],
        "format": "video/mp4",
        "title": target.name,
        "assertions": [
            {"label": "c2pa.actions", "data": {"actions": [{"action": "c2pa.created", "digitalSourceType": GENERATED}]}},
            {"label": "org.mutual-forcing.model", "data": dict(about)},
        ],
    }
    try:
        with atomic_path(target) as temporary, source.open("rb") as unsigned, temporary.open("w+b") as signed:
            c2pa.Builder(json.dumps(manifest), c2pa.Context.from_dict(SETTINGS)).sign(signer, "video/mp4", unsigned, signed)
    except c2pa.C2paError as error:
        raise ValueError(f"{target.name}: cannot be signed ({_line(error)}); look at the certificate chain") from error


def read_credentials(path: Path) -> Credentials | None:
    """What a file has of them; None: nothing, or a container that has none.

    Raises:
        ValueError: the library is absent.
    """
    c2pa = _library()
    if path.suffix.lower() not in SIGNED:
        return None
    try:
        with path.open("rb") as file, c2pa.Reader("video/mp4", file, context=c2pa.Context.from_dict(SETTINGS)) as reader:
            told, state = json.loads(reader.json()), str(reader.get_validation_state())
    except c2pa.C2paError.ManifestNotFound:
        return None
    except c2pa.C2paError as error:
        return Credentials("Invalid", "", False, "", (_line(error),))
    manifest = told.get("manifests", {}).get(told.get("active_manifest"), {})
    info = (manifest.get("claim_generator_info") or [{}])[0]
    actions = [a for x in manifest.get("assertions", []) if x.get("label", "").startswith("c2pa.actions") for a in x["data"]["actions"]]
    return Credentials(
        state,
        f"{info.get('name', '')} {info.get('version', '')}".strip(),
        any(action.get("digitalSourceType") == GENERATED for action in actions),
        str((manifest.get("signature_info") or {}).get("issuer", "")),
        tuple(str(problem.get("code")) for problem in told.get("validation_status") or ()),
    )


def _library() -> Any:
    try:
        import c2pa
    except ImportError as error:
        raise ValueError(f"Content Credentials need c2pa-python, which is not installed; {NEEDS}") from error
    return c2pa


def _pem(field: str, path: Path) -> bytes:
    try:
        if not path.is_file() or path.stat().st_size > MAX_PEM:
            raise ValueError(f"{field}={str(path)!r}: must be a PEM file")
        return path.read_bytes()
    except OSError as error:
        raise ValueError(f"{field}={str(path)!r}: cannot be read ({error.strerror}); check its permissions") from error


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:200]

"""This package as a wheel that asks for nothing: what a job ships, whether it runs from a checkout or from an installed release.

Ray installs a shipped wheel with `pip install --target`, which would fetch every requirement again, PyTorch first. What the job needs
stands in the lock, and is compared on the cluster; the wheel names no requirement.
"""

from __future__ import annotations

import base64
import hashlib
import importlib.metadata
import tomllib
import zipfile
from collections.abc import Mapping
from pathlib import Path

from ... import __version__

NAME = "mutual_forcing"
ROOT = Path(__file__).resolve().parents[2]
EPOCH = (1980, 1, 1, 0, 0, 0)  # the same files make the same wheel, and the cluster keeps the one that it has
MAX_BYTES = 20 * 2**20


def package_files(root: Path = ROOT) -> dict[str, Path]:
    """The files of the package, by their names in a wheel.

    Raises:
        ValueError: this is neither a checkout nor an installed package.
    """
    if (root / "pyproject.toml").is_file():
        return _of_checkout(root)
    try:
        listed = importlib.metadata.files("mutual-forcing") or []
    except importlib.metadata.PackageNotFoundError:
        listed = []
    found = {path.as_posix(): Path(str(path.locate())) for path in listed if path.parts[0] == NAME and "__pycache__" not in path.parts}
    if not found:
        raise ValueError(
            f"package in {str(root)!r}: neither a checkout nor an installed wheel; install it with pip, or submit from a checkout"
        )
    return found


def _of_checkout(root: Path) -> dict[str, Path]:
    """By the lists of pyproject.toml, as setuptools reads them."""
    tool = tomllib.loads((root / "pyproject.toml").read_text())["tool"]["setuptools"]
    found: dict[str, Path] = {}
    for package in tool["packages"]:
        folder = root.joinpath(*package.split(".")[1:])
        paths = [*folder.glob("*.py"), *(p for pattern in tool["package-data"].get(package, []) for p in folder.glob(pattern))]
        found |= {"/".join((NAME, *path.relative_to(root).parts)): path for path in paths}
    return found


def build_wheel(folder: Path, files: Mapping[str, Path] | None = None) -> Path:
    """Write the wheel into a folder; the same files give the same bytes.

    Raises:
        ValueError: the package cannot be found, or is far larger than code is.
    """
    held = {name: path.read_bytes() for name, path in sorted((package_files() if files is None else files).items())}
    if (size := sum(map(len, held.values()))) > MAX_BYTES:
        raise ValueError(f"package: {size / 2**20:.0f} MiB, more than code is ({MAX_BYTES // 2**20} MiB); move what is no code out of it")
    about, build = f"{NAME}-{__version__}.dist-info", _build_tag(held)
    held[f"{about}/METADATA"] = f"Metadata-Version: 2.1\nName: mutual-forcing\nVersion: {__version__}\n".encode()
    held[f"{about}/WHEEL"] = (
        b"Wheel-Version: 1.0\nGenerator: mutual-forcing\nRoot-Is-Purelib: true\nTag: py3-none-any\n" + f"Build: {build}\n".encode()
    )
    record = "".join(f"{name},sha256={_digest(content)},{len(content)}\n" for name, content in held.items())
    held[f"{about}/RECORD"] = f"{record}{about}/RECORD,,\n".encode()
    path = folder / f"{NAME}-{__version__}-{build}-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in held.items():
            archive.writestr(zipfile.ZipInfo(name, EPOCH), content, zipfile.ZIP_DEFLATED)
    return path


def _build_tag(held: Mapping[str, bytes]) -> str:
    """Of these contents: a cluster knows a wheel by its name alone, and would take the one that it has for another of the same version."""
    whole = hashlib.sha256(b"".join(f"{name}\0{len(content)}\0".encode() + content for name, content in held.items()))
    return f"1{whole.hexdigest()[:15]}"  # a tag begins with a digit


def _digest(content: bytes) -> str:
    return base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=").decode()

"""Whether a dataset that is there is of these settings and these sources, told by its manifest and a listing, before anything starts."""

from __future__ import annotations

from pathlib import Path

from .adopt import taken_over
from .config import DataConfig, first_difference
from .format.account import read_account
from .format.manifest import MANIFEST, Manifest, open_manifest
from .places.store import store_of
from .preparing.growth import first_of, growth, listed


def require_same_settings(config: DataConfig, out: str | Path) -> None:
    """Refuse a dataset that was made with other settings; `prepare` does so too, but only where Ray runs.

    Raises:
        ValueError: they differ, or its manifest is damaged.
        OSError: the store does not answer.
    """
    with store_of(str(out)) as store:
        if MANIFEST in store.names():
            refuse_other_settings(open_manifest(store.fetch(MANIFEST)), config, store.uri)


def refuse_other_settings(before: Manifest, config: DataConfig, uri: str) -> None:
    """Raises ValueError where a dataset at `uri` was made with others."""
    if differs := first_difference(before.settings, config.shaping()):
        raise ValueError(f"data.out={uri!r}: holds a dataset of other settings ({differs}); choose another folder or remove it")


def require_unchanged(config: DataConfig, out: Path) -> None:
    """Refuse sources that have changed since the dataset in `out` was made of them; characters follow from the settings alone.

    Raises:
        ValueError: they have, or they are gone.
    """
    if not (out / MANIFEST).is_file():
        return
    if config.prepared:
        taken_over(config, out, verify=False)
    elif not config.is_synthetic:
        manifest = open_manifest(out / MANIFEST)
        account = {line.path: line for line in read_account(out / manifest.account)}
        found = growth(first_of(listed(config.inputs, account.values()), account, config.stream_sources), account, None)
        same = not found.added and not found.changed and not found.gone
        if not same or first_difference(manifest.settings, config.shaping()):
            raise ValueError(
                f"data.media={config.media!r}: its files have changed since this run was begun with them; "
                "start another run with --out, or put the files back as they were"
            )

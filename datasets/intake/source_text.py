"""The text of a source: what a list says of it, and what the files beside it say, as one."""

from __future__ import annotations

from collections.abc import Iterator

from ..places.store import is_remote
from .at_hand import read_place
from .sidecars import MAX_SIDECAR_BYTES, Sidecar, merged, parse_file
from .sources import Source


def text_of(source: Source) -> Sidecar:
    """Caption, words and tags of a source. What is spoken without times gets them from `Sidecar.over`, when its length is known.

    Raises:
        ValueError: a file cannot be read or is of no known form, or there are two captions, transcripts, licences or consents that differ.
        OSError: S3 does not answer; nothing is said of the source.
    """
    return merged(_parts(source))


def _parts(source: Source) -> Iterator[tuple[str, Sidecar]]:
    yield "the list", Sidecar(source.caption, source.words, source.spoken, source.tags)
    for place in source.beside:
        name = place.path.rpartition("/")[2]
        try:
            written = read_place(place, MAX_SIDECAR_BYTES + 1)
        except OSError as error:
            if is_remote(place.path):
                raise
            raise ValueError(f"sidecar {name}: cannot be read ({error.strerror}); change its permissions or remove it") from error
        yield name, parse_file(written, name)

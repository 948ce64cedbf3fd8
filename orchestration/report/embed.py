"""Files of a run as data URIs, so that the report is one file that plays without a network and without its folder."""

import base64
import io
from dataclasses import dataclass
from pathlib import Path

from matplotlib.image import imsave

from ...datasets.ffmpeg.media import DecodeConfig, MediaError, decode, probe
from ..run_reader import UnavailableError, contained_file

MAX_BYTES = 16 * 2**20
MAX_POSTER_SIDE = 512
MEDIA_TYPES = {".mp4": "video/mp4", ".webm": "video/webm", ".png": "image/png", ".jpg": "image/jpeg"}


@dataclass(frozen=True)
class Take:
    """A picture or a version of a clip (the real one, or what a mode made). `source` is a data URI, or None with the `reason`.

    `poster`: of a clip, a frame from its middle as a data URI (the first one is given to the model and shows nothing), for readers whose
    browser does not play the clip; empty where there is none.
    """

    title: str
    detail: str
    source: str | None
    reason: str = ""
    poster: str = ""


def embed(run_dir: Path, name: str, title: str, detail: str = "") -> Take:
    """The file `name` of the run, ready to embed; one that is missing, foreign or too large carries its reason instead."""
    try:
        path = contained_file(run_dir, name)
        media_type = MEDIA_TYPES.get(path.suffix.lower())
        if media_type is None:
            raise UnavailableError(f"{name} is of no kind that a browser plays ({', '.join(MEDIA_TYPES)})")
        if path.stat().st_size > MAX_BYTES:
            raise UnavailableError(f"{name} is larger than {MAX_BYTES // 2**20} MiB: open it from the run folder")
        source = _data_uri(media_type, path.read_bytes())
        poster = _poster(path) if media_type.startswith("video/") else ""
    except UnavailableError as reason:
        return Take(title, detail, None, str(reason))
    except OSError as error:
        return Take(title, detail, None, f"{name} cannot be read: {error.strerror}")
    return Take(title, detail, source, poster=poster)


def _poster(path: Path) -> str:
    try:
        found = probe(path)
        scale = min(1.0, MAX_POSTER_SIDE / max(found.width, found.height))
        width, height = (max(2, round(side * scale)) for side in (found.width, found.height))
        seconds = max(0.1, (found.duration_s or 0.0) / 2)
        frame = decode(path, found, DecodeConfig(width=width, height=height, max_seconds=seconds)).frames[-1]
    except MediaError as error:
        raise UnavailableError(str(error)) from error
    png = io.BytesIO()
    imsave(png, frame, format="png")
    return _data_uri("image/png", png.getvalue())


def _data_uri(media_type: str, content: bytes) -> str:
    return f"data:{media_type};base64,{base64.b64encode(content).decode('ascii')}"

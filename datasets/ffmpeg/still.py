"""A picture file as a frame: a stranger's, so its kind is told by its content, and its size is known before its pixels are read."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from .probe import MAX_PIXELS, MediaError, plain_file

FORMATS = ("PNG", "JPEG", "WEBP")
MAX_BYTES = 64 << 20
MAX_SIDE = 1 << 14


def read_still(path: Path | str, width: int, height: int) -> np.ndarray:
    """The picture as uint8 `[height, width, 3]` RGB: turned as its EXIF data says, it covers the frame and its centre stays, as with films
    (`film_command`). What is transparent is black; of an animation the first picture counts.

    Raises:
        MediaError: no plain file, larger than `MAX_BYTES` or `MAX_PIXELS`, none of `FORMATS`, or damaged.
    """
    file = plain_file(path, "open")
    if file.stat().st_size > MAX_BYTES:
        raise MediaError("open", path, f"has {file.stat().st_size} bytes; pictures of at most {MAX_BYTES} are read")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(file, formats=FORMATS) as image:
                wide, high = image.size
                if wide * high > MAX_PIXELS or max(wide, high) > MAX_SIDE:
                    raise MediaError("open", path, f"has {wide}x{high} pixels; at most {MAX_PIXELS} are read; scale it down")
                turned = ImageOps.exif_transpose(image)
                if turned.mode in ("RGBA", "LA", "PA") or "transparency" in turned.info:
                    turned = turned.convert("RGBA")
                    black = Image.new("RGBA", turned.size, (0, 0, 0, 255))
                    turned = Image.alpha_composite(black, turned)
                picture = turned.convert("RGB")
    except UnidentifiedImageError as error:
        raise MediaError("open", path, f"is none of {', '.join(FORMATS)}; convert it") from error
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise MediaError("open", path, f"has too many pixels; at most {MAX_PIXELS} are read; scale it down") from error
    except (OSError, ValueError, SyntaxError, OverflowError, MemoryError) as error:
        if isinstance(error, MediaError):
            raise
        raise MediaError("open", path, f"cannot be read as a picture ({' '.join(str(error).split())[:100]}); save it again") from error
    return np.asarray(ImageOps.fit(picture, (width, height), Image.Resampling.BICUBIC), dtype=np.uint8)

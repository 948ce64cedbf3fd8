"""Which ffmpeg is run, and how what it refuses is put into words."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from functools import lru_cache
from pathlib import Path

import imageio_ffmpeg

OLDEST_FFMPEG = (5, 1)  # the first with `-fps_mode`
NEEDED_LIBRARIES = ("libx264", "libvpx", "libopus")  # what write_media encodes with


class MediaError(ValueError):
    """A file that we refuse, or could not write: `stage` ("open", "probe", "decode" or "write"), a one-line reason, ffmpeg's own words."""

    def __init__(self, stage: str, path: Path | str, reason: str, said: str = "") -> None:
        name = "".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in Path(path).name)
        super().__init__(f"{name}: {reason}" + (f" (ffmpeg: {said})" if said else ""))
        self.stage, self.path, self.reason, self.said = stage, str(path), reason, said

    def __reduce__(self) -> tuple[type[MediaError], tuple[str, str, str, str]]:
        return MediaError, (self.stage, self.path, self.reason, self.said)  # crosses process borders whole


@lru_cache(maxsize=1)
def ffmpeg_path() -> str:
    """Path of the ffmpeg program: the PATH's if it is new enough and has the encoders that we use, else the wheel's own static build.

    Raises:
        MediaError: there is none for this platform.
    """
    found = shutil.which("ffmpeg")
    if found and _fit_for_us(found):
        return os.path.abspath(found)
    try:
        return imageio_ffmpeg.get_ffmpeg_exe()
    except RuntimeError as error:
        raise MediaError("open", "ffmpeg", "no usable ffmpeg: install ffmpeg 5.1 or newer, or a wheel of imageio-ffmpeg") from error


def _fit_for_us(program: str) -> bool:
    try:
        told = subprocess.run([program, "-version"], capture_output=True, timeout=20, stdin=subprocess.DEVNULL)
    except (OSError, subprocess.TimeoutExpired):
        return False
    said = told.stdout.decode(errors="replace")
    release = re.match(r"ffmpeg version n?(\d+)\.(\d+)", said)  # builds from git have no number and are taken as new
    new_enough = said.startswith("ffmpeg version") and (release is None or (int(release[1]), int(release[2])) >= OLDEST_FFMPEG)
    return new_enough and all(f"--enable-{library}" in said for library in NEEDED_LIBRARIES)


def essence(stderr: str, most: int = 200) -> str:
    """The first error that ffmpeg named (run it with `-v level+...`), on one line of at most `most` characters, "" if there is none.

    The first is the cause; those after it say what followed from it. Origins in brackets, which hold addresses, are left out.
    """
    errors = [line for line in stderr.splitlines() if "[error]" in line or "[fatal]" in line]
    words = re.sub(r"\[[^\]]*\] ?", "", errors[0]).strip() if errors else ""
    words = "".join(letter if letter.isprintable() else "?" for letter in words)
    return words if len(words) <= most else words[: most - 3] + "..."

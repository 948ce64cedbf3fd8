"""Accept or refuse a clip: pure rules that return the reason, or None to accept."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class FilterConfig:
    """Bounds. min_rms_db: sound below this level (dB of full scale) counts as silent; min_luma: mean brightness of 255."""

    min_rms_db: float = -60.0
    min_luma: float = 6.0


def refuse_reason(frames: np.ndarray, audio: np.ndarray, config: FilterConfig) -> str | None:
    """Why a clip (frames uint8 [N, H, W, 3], audio float32 [S]) is of no use for training, or None."""
    level = 20 * np.log10(np.sqrt(np.mean(np.square(audio, dtype=np.float64))) + 1e-12)
    if level < config.min_rms_db:
        return f"silent: {level:.0f} dB, at least {config.min_rms_db:g} dB wanted"
    if frames.mean() < config.min_luma:
        return f"black: mean brightness {frames.mean():.1f} of 255, at least {config.min_luma:g} wanted"
    return None

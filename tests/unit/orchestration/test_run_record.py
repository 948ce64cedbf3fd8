"""What a run's record tells of its stages."""

from __future__ import annotations

from dataclasses import replace

import pytest

from mutual_forcing.orchestration.recipes import recipe
from mutual_forcing.orchestration.run_record import require_both
from mutual_forcing.workers.pretrained import InitConfig

TINY = recipe("tiny")


def test_clips_need_both_modalities_trained() -> None:
    for stage in ("pretrain-audio", "joint", "mutual"):
        require_both(TINY, stage)
    later = "give a later one of pretrain-video, pretrain-audio, joint, mutual"
    with pytest.raises(
        ValueError, match=f"stage 'pretrain-video': its audio branch is as random as at the start, and clips need both; {later}"
    ):
        require_both(TINY, "pretrain-video")
    require_both(replace(TINY, init=InitConfig(audio="/weights")), "pretrain-video")
    with pytest.raises(ValueError, match="train a stage of both"):
        require_both(replace(TINY, stages=TINY.stages[:1]), "pretrain-video")

"""Clips while they are made: the same bits as at once, text that changes, clips that leave, and no more memory as time goes by."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from playing_material import first_latent, lively, played, prompt
from run_material import untrained_run

from mutual_forcing.model.noise import PositionalNoise
from mutual_forcing.model.sampler import generate
from mutual_forcing.model.text import Word, make_controls
from mutual_forcing.orchestration.generation.opened_model import OpenedModel
from mutual_forcing.orchestration.generation.playing import Playing, Prompt


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> OpenedModel:
    folder = tmp_path_factory.mktemp("untrained") / "run"
    untrained_run(folder)
    return lively(folder)


def test_a_stream_is_bit_for_bit_what_decoding_at_once_gives(model: OpenedModel) -> None:
    few, asked = model.sampler("few", 2, None), prompt(model)
    chunks = [step[0] for step in Playing(model, [asked], few, 3)]
    controls = make_controls([asked.caption], [[Word(*w) for w in asked.words]], model.record.network.text)
    first = first_latent(model)[None]
    like = (1, model.record.network.audio_channels)
    made = list(generate(model.network, controls, first, like, 3, few, PositionalNoise([(0, "generate")])))
    video = torch.cat([first, *(x.get("video") for x in made)], dim=1)
    audio = torch.cat([x.get("audio") for x in made], dim=1)
    assert np.array_equal(np.concatenate([c.frames for c in chunks]), model.video.decode(video)[0].numpy())
    assert np.array_equal(np.concatenate([c.samples for c in chunks]), model.audio.decode(audio)[0].clamp(-1, 1).numpy())
    clock = model.record.timeline
    assert [len(c.frames) for c in chunks] == [1 + clock.chunk_frames, clock.chunk_frames, clock.chunk_frames]
    assert sum(len(c.samples) for c in chunks) == clock.samples(3)


def test_the_same_seed_gives_the_same_bits_and_another_one_others(model: OpenedModel) -> None:
    few = model.sampler("few", 2, None)
    one, again, other = (np.concatenate([s[0].frames for s in Playing(model, [prompt(model, seed)], few, 2)]) for seed in (5, 5, 6))
    assert np.array_equal(one, again)
    assert not np.array_equal(one, other)


def test_a_stream_that_stops_early_gives_the_sound_that_is_left(model: OpenedModel) -> None:
    few = model.sampler("few", 1, None)
    stopped = Playing(model, [prompt(model)], few)
    early = [*(s[0] for s in played(stopped, 2)), *stopped.rest()]
    whole = [s[0] for s in Playing(model, [prompt(model)], few, 2)]
    assert np.array_equal(np.concatenate([c.samples for c in early]), np.concatenate([c.samples for c in whole]))
    assert next(stopped, None) is None
    assert stopped.rest() == []


@pytest.mark.parametrize("mode", ["few", "multi"])
def test_text_that_changes_counts_from_the_next_chunk_on(model: OpenedModel, mode: str) -> None:
    sampler = model.sampler(mode, 2, 2.0 if mode == "multi" else None)
    before, other, said = (Playing(model, [prompt(model), prompt(model, 1)], sampler, 4) for _ in range(3))
    first = [played(p, 2) for p in (before, other, said)]
    assert all(np.array_equal(a[0].frames, b[0].frames) for made in first[1:] for a, b in zip(first[0], made, strict=True))
    other.caption(0, "a loud and angry voice")
    words = said.say(0, "something new")
    assert words[0][1:] > (1.7 - 1e-6, 1.7)  # after the last word, which ends at 1.7 s
    assert words[1][2] == pytest.approx(1.7 + 14 / 14)
    late = [played(p, 2) for p in (before, other, said)]
    for changed in late[1:]:
        assert not all(np.array_equal(a[0].frames, b[0].frames) for a, b in zip(late[0], changed, strict=True))
        for a, b in zip(late[0], changed, strict=True):  # the neighbour's text did not change
            assert np.abs(a[1].frames.astype(int) - b[1].frames.astype(int)).max() <= 1


@pytest.mark.parametrize("mode", ["few", "multi"])
def test_a_clip_leaves_and_the_others_go_on_as_they_were(model: OpenedModel, mode: str) -> None:
    sampler = model.sampler(mode, 2, 2.0 if mode == "multi" else None)
    prompts = [prompt(model, seed) for seed in range(3)]
    whole, less = (Playing(model, prompts, sampler, 4) for _ in range(2))
    expected = [*played(whole, 4)]
    played(less, 2)
    less.leave(1)
    assert less.clips == (0, 2)
    for all_of, left in zip(expected[2:], played(less, 2), strict=True):
        assert [c.clip for c in left] == [0, 2]
        for chunk in left:
            same = all_of[chunk.clip]
            assert np.abs(same.frames.astype(int) - chunk.frames.astype(int)).max() <= 1
            assert np.abs(same.samples - chunk.samples).max() < 1e-4
    with pytest.raises(ValueError, match=r"clip 1: is not being made; these are: \[0, 2\]"):
        less.leave(1)
    less.leave(0)
    less.leave(2)
    assert next(less, None) is None


@pytest.mark.parametrize("mode", ["few", "multi"])
def test_clips_that_wait_apart_come_out_as_they_would_have(model: OpenedModel, mode: str) -> None:
    """Those that are taken out wait, the others go on; then it is the other way round, with text that changes in one part alone."""
    sampler = model.sampler(mode, 2, 2.0 if mode == "multi" else None)
    prompts = [prompt(model, seed) for seed in range(3)]
    whole, both = (Playing(model, prompts, sampler) for _ in range(2))
    expected = played(whole, 6)
    played(both, 2)
    slow = both.apart([0, 2])
    assert (both.clips, slow.clips) == ((1,), (0, 2))
    both.caption(1, "somebody else")
    alone, waited = played(both, 4), played(slow, 4)
    assert not np.array_equal(alone[0][0].frames, expected[2][1].frames)
    for all_of, some in zip(expected[2:], waited, strict=True):
        assert [c.clip for c in some] == [0, 2]
        for chunk in some:
            same = all_of[chunk.clip]
            assert chunk.index == same.index
            assert np.abs(same.frames.astype(int) - chunk.frames.astype(int)).max() <= 1
            assert np.abs(same.samples - chunk.samples).max() < 1e-4


def test_a_clip_that_ends_first_gives_the_sound_that_is_left(model: OpenedModel) -> None:
    few = model.sampler("few", 1, None)
    pair, whole = (Playing(model, [prompt(model), prompt(model, 1)], few, chunks) for chunks in (None, 2))
    early = [*(step[0] for step in played(pair, 2)), pair.end(0)]
    assert pair.clips == (1,)
    assert len(played(pair, 1)[0]) == 1
    wanted = np.concatenate([step[0].samples for step in whole])
    assert np.abs(np.concatenate([c.samples for c in early]) - wanted).max() < 1e-4


def test_a_clip_goes_on_after_its_past(model: OpenedModel) -> None:
    """With the latents that were made for them as their past, chunks come out as if nothing had been interrupted."""
    few, asked = model.sampler("few", 2, None), prompt(model)
    whole = [s[0] for s in Playing(model, [asked], few, 4)]
    controls = make_controls([asked.caption], [[Word(*w) for w in asked.words]], model.record.network.text)
    like = (1, model.record.network.audio_channels)
    past = list(generate(model.network, controls, asked.first[None], like, 2, few, PositionalNoise([(0, "generate")])))
    on = [s[0] for s in Playing(model, [Prompt(asked.first, asked.caption, asked.words, 0, tuple(past))], few, 4)]
    assert [c.index for c in on] == [0, 1, 2, 3]
    assert all(np.array_equal(a.frames, b.frames) and np.array_equal(a.samples, b.samples) for a, b in zip(whole, on, strict=True))
    with pytest.raises(ValueError, match="pasts of the same length"):
        Playing(model, [asked, Prompt(asked.first, past=tuple(past))], few)


def test_of_hours_of_words_few_are_held(model: OpenedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    """The network never gets more than a portion, each word in time for the chunks that hear it; what nobody hears any more goes."""
    words = tuple((f"w{i}", i / 3, i / 3 + 0.3) for i in range(3 * 4 * 3600))
    playing = Playing(model, [Prompt(first_latent(model), words=words)], model.sampler("few", 1, None))
    given = []
    control = playing._generation.control
    monkeypatch.setattr(playing._generation, "control", lambda c: given.append(c) or control(c))
    clock, net = model.record.timeline, model.record.network
    heard = playing._controls(0)
    for step in range(90):
        next(playing)
        heard = given[-1] if given else heard
        times = heard.words_time_BW2[0][heard.words_mask_BW[0]]
        end = float((step + 1) * clock.chunk) + net.word_lookahead_s
        since = float((step - net.window) * clock.chunk)
        wanted = [w for w in words if w[2] > since and w[1] < end]
        assert {round(t, 3) for t in times[:, 0].tolist()} >= {round(w[1], 3) for w in wanted}
        assert len(times) <= 3 * 34
    assert 1 <= len(given) <= 3
    assert playing._clips[0].words[0][2] > 0.3, "the past is forgotten"


@pytest.mark.parametrize(("text", "told"), [(" ", "0 letters"), ("x" * 801, "801 letters; from 1 to 800")])
def test_what_cannot_be_said_is_refused(model: OpenedModel, text: str, told: str) -> None:
    with pytest.raises(ValueError, match=told):
        Playing(model, [prompt(model)], model.sampler("few", 1, None)).say(0, text)

"""Generation and rollouts: against a slow reference without a cache, alone or in a batch, from noise or from a real chunk."""

from __future__ import annotations

import re
from dataclasses import replace
from itertools import islice

import pytest
import torch
from loss_material import exits_of
from model_material import CHANNELS, CLOCK, assert_near, clip_noise, controls, latents, network, rows_of, small_config
from torch import Tensor

from mutual_forcing.model.noise import PositionalNoise
from mutual_forcing.model.objective import DmdConfig, FewConfig, FewSampler, HistoryConfig, HistorySource, ObjectiveConfig
from mutual_forcing.model.path import PathConfig
from mutual_forcing.model.sampler import SamplerConfig, chunk_latents, few_mode, generate, roll_out
from mutual_forcing.model.stream import Stream
from mutual_forcing.model.timeline import Layout
from mutual_forcing.model.transformer import AVTransformer
from mutual_forcing.model.types import AV, MODALITIES, Controls, Rollout

CHUNKS = 4
PATH = PathConfig(shift_video=3.0, shift_audio=0.7)
FEW = SamplerConfig(moves=4, path=PATH)
SAMPLERS: list[FewSampler] = ["ode", "renoise"]


def choices(
    low: float = 0.2, high: float = 0.6, sampler: FewSampler = "ode", source: HistorySource = "generated", exit_last: float = 0.5
) -> ObjectiveConfig:
    """What a rollout reads of an objective."""
    base = ObjectiveConfig(path=PATH, few=FewConfig(4, sampler), history=HistoryConfig(source, low, high))
    return replace(base, dmd=replace(base.dmd, exit_last_share=exit_last))


def pure(sampler: FewSampler) -> ObjectiveConfig:
    """Histories from noise alone."""
    return choices(1.0, 1.0, sampler)


def joined(chunks: list[AV]) -> AV:
    return chunks[0].map(lambda *parts: torch.cat(parts, dim=1), *chunks[1:])


def made_by(net: AVTransformer, text: Controls, config: SamplerConfig, chunks: int = CHUNKS, noise: PositionalNoise | None = None) -> AV:
    first = latents(1, dtype=next(net.parameters()).dtype).get("video")[:, :1]
    return joined(list(generate(net, text, first, (2, CHANNELS["audio"]), chunks, config, noise or clip_noise())))


def rolled(net: AVTransformer, clips: AV, objective: ObjectiveConfig, noise: PositionalNoise | None = None) -> Rollout:
    return roll_out(net, clips, controls(clips.batch), Layout(CLOCK, CHUNKS), objective, noise or clip_noise(clips.batch), 11)


# --- a slow reference -----------------------------------------------------------------------------------------------------


def parallel_velocity(net: AVTransformer, x: AV, history: list[AV], first: Tensor, t: float, r: float, text: Controls) -> AV:
    """Velocity of the newest chunk by the parallel forward over everything so far: no cache."""
    layout = Layout(CLOCK, len(history) + 1)
    sequence = joined([*history, x])
    context = AV(torch.cat([first, sequence.get("video")], dim=1), sequence.audio)

    def moments(raw: float) -> AV:
        shifts = {"video": PATH.shift_video, "audio": PATH.shift_audio}
        times = {m: s * raw / (1 + (s - 1) * raw) for m, s in shifts.items()}
        return AV(**{m: torch.full((x.batch, layout.chunks), v, dtype=torch.float32) for m, v in times.items()})

    with torch.no_grad():
        u = net(sequence, context, moments(t), moments(r), text, layout)
    return AV(*(u.get(m)[:, -x.get(m).shape[1] :] for m in MODALITIES))


def lines(t: float) -> dict[str, float]:
    return {"video": 3.0 * t / (1 + 2.0 * t), "audio": 0.7 * t / (1 - 0.3 * t)}


def slow_move(
    net: AVTransformer, x: AV, history: list[AV], first: Tensor, index: int, chunk: int, text: Controls, config: SamplerConfig
) -> AV:
    """One move of the sampler, from the definitions of the modes (method 1, 5.3)."""
    t, r = 1 - index / config.moves, 1 - (index + 1) / config.moves
    renoise = config.mode == "few" and config.few_sampler == "renoise"
    end = {"multi": t, "few": 0.0 if renoise else r}[config.mode]
    u = parallel_velocity(net, x, history, first, t, end, text)
    if config.mode == "multi" and config.guidance != 1:
        bare = parallel_velocity(net, x, history, first, t, end, text.unconditional())
        u = u.map(lambda c, b: b + config.guidance * (c - b), bare)
    to = 0.0 if renoise else r
    moved = {m: x.get(m) - (lines(t)[m] - lines(to)[m]) * u.get(m) for m in MODALITIES}
    if renoise and r > 0:
        e = clip_noise(x.batch).normal_like(x, "move", chunk, index)
        moved = {m: (1 - lines(r)[m]) * y + lines(r)[m] * e.get(m) for m, y in moved.items()}
    return AV(**moved)


def assert_follows(reference: AV, made: AV) -> None:
    """Both round their times to fp32 in their own way, which 16 chaotic moves amplify; a wrong time or move errs by the scale itself."""
    for m, x in reference.items():
        assert_near(x, made.get(m), atol=1e-4 * x.abs().max().item())


CONFIGS = {
    "few-ode": FEW,
    "few-renoise": replace(FEW, few_sampler="renoise"),
    "multi": replace(FEW, mode="multi", guidance=1.0),
    "multi-guided": replace(FEW, mode="multi", guidance=3.0),
}


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_generation_equals_the_slow_reference(config: SamplerConfig) -> None:
    """The window of 2 rolls within the four chunks."""
    net, text, first = network(small_config(window=2)), controls(), latents(1).get("video")[:, :1]
    streamed = joined(list(generate(net, text, first, (2, CHANNELS["audio"]), CHUNKS, config, clip_noise())))
    history: list[AV] = []
    for chunk in range(CHUNKS):
        like = chunk_latents(latents(CHUNKS), Layout(CLOCK, CHUNKS), chunk)
        x = clip_noise().normal_like(like, "chunk", chunk)
        for index in range(config.moves):
            x = slow_move(net, x, history, first, index, chunk, text, config)
        history.append(x)
    assert_follows(joined(history), streamed)


def slow_exits(
    net: AVTransformer, clips: AV, history: list[AV], chunk: int, picked: list[int], text: Controls, config: SamplerConfig
) -> AV:
    """States of a chunk after as many moves from pure noise as each clip's `picked` says, on the past `history`."""
    first, like = clips.get("video")[:, :1], chunk_latents(clips, Layout(CLOCK, CHUNKS), chunk)
    states = [clip_noise(clips.batch).normal_like(like, "chunk", chunk)]
    for index in range(config.moves - 1):
        states.append(slow_move(net, states[-1], history, first, index, chunk, text, config))
    return AV(*(torch.stack([states[i].get(m)[b] for b, i in enumerate(picked)]) for m in MODALITIES))


@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("strength", [1.0, 0.5, 0.25])
def test_rollouts_equal_the_slow_reference(strength: float, sampler: FewSampler) -> None:
    """History from the real chunk noised to `strength`, exit states from pure noise; both on the generated past."""
    config, net, clips, text = replace(FEW, few_sampler=sampler), network(small_config(window=2)), latents(CHUNKS), controls()
    layout, first = Layout(CLOCK, CHUNKS), clips.get("video")[:, :1]
    made = rolled(net, clips, choices(strength, strength, sampler, exit_last=0.3))
    made_exits, exit_times = exits_of(made)
    history: list[AV] = []
    exits: list[AV] = []
    for chunk in range(CHUNKS):
        real = chunk_latents(clips, layout, chunk)
        e = clip_noise().normal_like(real, "chunk", chunk)
        picked = [round((1 - t) * 4) for t in exit_times[:, chunk].tolist()]
        exits.append(slow_exits(net, clips, history, chunk, picked, text, config))
        at = lines(strength)
        x = AV(*((1 - at[m]) * real.get(m) + at[m] * e.get(m) for m in MODALITIES))
        for index in range(round((1 - strength) * 4), 4):
            x = slow_move(net, x, history, first, index, chunk, text, config)
        history.append(x)
    want = joined(history)
    assert_follows(AV(torch.cat([first, want.get("video")], dim=1), want.audio), made.history)
    assert_follows(joined(exits), made_exits)


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_true_histories_are_the_clips_and_exit_states_are_made_on_them(sampler: FewSampler) -> None:
    """Teacher forcing: nothing is generated but the exit states, and their past is real."""
    config, net, clips, text = replace(FEW, few_sampler=sampler), network(small_config(window=2)), latents(CHUNKS), controls()
    made = rolled(net, clips, choices(sampler=sampler, source="real", exit_last=0.3))
    for m, x in clips.items():
        assert torch.equal(made.history.get(m), x)
    states, times = exits_of(made)
    true, exits = [chunk_latents(clips, Layout(CLOCK, CHUNKS), chunk) for chunk in range(CHUNKS)], []
    for chunk in range(CHUNKS):
        picked = [round((1 - t) * 4) for t in times[:, chunk].tolist()]
        exits.append(slow_exits(net, clips, true[:chunk], chunk, picked, text, config))
    assert_follows(joined(exits), states)
    generated, same_times = exits_of(rolled(net, clips, choices(sampler=sampler, exit_last=0.3)))
    assert torch.equal(times, same_times)
    assert (generated.get("audio") - states.get("audio")).abs().max() > 1e-3, "the past matters"


@pytest.mark.parametrize("changes", [{"w_distil": 0.0}, {"dmd": DmdConfig(weight=0.0)}])
def test_without_dmd_no_exit_state_is_made(changes: dict, monkeypatch: pytest.MonkeyPatch) -> None:
    """They cost up to as much as the histories: only the history's moves are left, and its bits are the same."""
    net, clips, counts = network(dtype=torch.float32), latents(CHUNKS, dtype=torch.float32), []
    velocity = Stream.velocity
    monkeypatch.setattr(Stream, "velocity", lambda self, *a: (counts.append(1), velocity(self, *a))[1])
    with_dmd = rolled(net, clips, choices(0.5, 0.5))
    both = len(counts)
    without = rolled(net, clips, replace(choices(0.5, 0.5), **changes))
    assert (without.exit_state, without.exit_time_BK) == (None, None)
    assert len(counts) - both == 2 * CHUNKS, "from strength 0.5 two of four moves are left"
    assert both > 2 * CHUNKS
    for m, x in with_dmd.history.items():
        assert torch.equal(without.history.get(m), x)


# --- rollouts -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_a_rollout_is_the_same_alone_or_in_another_batch(sampler: FewSampler) -> None:
    """Clips of one batch have other strengths and exits, which must not touch their neighbours."""
    net, objective = network(), choices(0.2, 1.0, sampler)
    keys = [(7, "test", b) for b in (5, 1)]
    strengths = PositionalNoise(keys).uniform((), "strength")
    assert (strengths[0] - strengths[1]).abs() > 0.5, "the two clips start at different moves"
    clips, text = latents(CHUNKS), controls()
    layout = Layout(CLOCK, CHUNKS)
    whole = roll_out(net, clips, text, layout, objective, PositionalNoise(keys), 0)
    states, times = exits_of(whole)
    for order in ([0], [1], [1, 0]):
        part = clips.map(lambda x, order=order: x[order])
        some = rows_of(text, order)
        made = roll_out(net, part, some, layout, objective, PositionalNoise([keys[b] for b in order]), 0)
        some_states, some_times = exits_of(made)
        for one, other in ((made.history, whole.history), (some_states, states)):
            for m, x in one.items():
                assert_near(x, other.get(m)[order], atol=1e-9)
        assert torch.equal(some_times, times[order])


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_history_of_strength_1_is_what_inference_makes(sampler: FewSampler) -> None:
    """Nothing of the real clip is left but its first frame: recipe `mutual-paper` trains on true generations."""
    net, config = network(dtype=torch.float32), few_mode(pure(sampler))
    assert config == replace(FEW, few_sampler=sampler)
    clips = latents(CHUNKS, dtype=torch.float32)
    first = clips.get("video")[:, :1]
    inferred = joined(list(generate(net, controls(), first, (2, CHANNELS["audio"]), CHUNKS, config, clip_noise())))
    history = rolled(net, clips, pure(sampler)).history
    assert torch.equal(history.get("video")[:, :1], first)
    assert torch.equal(history.get("video")[:, 1:], inferred.get("video"))
    assert torch.equal(history.get("audio"), inferred.get("audio"))
    others = AV(torch.cat([first, clips.get("video")[:, 1:] + 1], dim=1), clips.get("audio") - 1)
    assert torch.equal(rolled(net, others, pure(sampler)).history.get("audio"), inferred.get("audio"))


def test_a_weaker_strength_stays_nearer_to_the_real_clip() -> None:
    net, clips = network(), latents(CHUNKS)

    def distance(strength: float) -> float:
        made = rolled(net, clips, choices(strength, strength)).history
        return (made.get("audio") - clips.get("audio"))[:, : CLOCK.audio_latents(1)].square().mean().item()

    assert distance(0.25) < distance(0.5) < distance(1.0)


@pytest.mark.parametrize(("sampler", "share"), [("ode", 0.5), ("ode", 1.0), ("renoise", 0.5)])
def test_exit_times_lie_on_the_grid_in_the_stated_shares(sampler: FewSampler, share: float) -> None:
    """With `ode` the last move alone ends at 0, so its state is exited at least `exit_last_share` of the time."""
    count, chunks = 30, 10
    net, text = network(dtype=torch.float32), controls(1)
    many = rows_of(text, [0] * count)
    clips = latents(chunks, batch=count, dtype=torch.float32).only(("audio",))
    objective = choices(sampler=sampler, exit_last=share)
    _, times = exits_of(roll_out(net, clips, many, Layout(CLOCK, chunks), objective, clip_noise(count), 0))
    assert times.shape == (count, chunks)
    counts = {t: (times == t).float().mean().item() for t in (1.0, 0.75, 0.5, 0.25)}
    assert sum(counts.values()) == pytest.approx(1.0), "no other time"
    last = share + (1 - share) / 4 if sampler == "ode" else 0.25
    for t, found in counts.items():
        want = last if t == 0.25 else (1 - last) / 3
        assert found == pytest.approx(want, abs=4 * (max(want * (1 - want), 0) / (count * chunks)) ** 0.5 + 1e-6)


def test_a_rollout_is_data() -> None:
    """No gradient, the shapes of the clips, the version of its maker, an unchanged first frame."""
    net, clips = network(), latents(CHUNKS)
    made = rolled(net, clips, choices())
    states, _ = exits_of(made)
    for m, x in clips.items():
        assert made.history.get(m).shape == x.shape
        assert states.get(m).shape == (x[:, 1:] if m == "video" else x).shape
        assert not made.history.get(m).requires_grad
        assert not states.get(m).requires_grad
    assert torch.equal(made.history.get("video")[:, 0], clips.get("video")[:, 0])
    assert (made.version_low, made.version_high) == (11, 11)


@pytest.mark.parametrize("m", MODALITIES)
def test_one_modality_rolls_out_alone(m: str) -> None:
    made = rolled(network(), latents(CHUNKS).only((m,)), choices())
    assert [name for name, _ in made.history.items()] == [m]
    assert made.history.get(m).shape == latents(CHUNKS).get(m).shape


# --- generation -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
@pytest.mark.parametrize("present", [MODALITIES, ("video",), ("audio",)], ids="+".join)
def test_generation_yields_one_chunk_after_another(present: tuple[str, ...], config: SamplerConfig) -> None:
    net, first = network(dtype=torch.float32), latents(1, dtype=torch.float32).get("video")[:, :1]
    frame, audio = (first if "video" in present else None), ((2, CHANNELS["audio"]) if "audio" in present else None)
    chunks = list(generate(net, controls(), frame, audio, CHUNKS, config, clip_noise()))
    assert len(chunks) == CHUNKS
    for k, x in enumerate(chunks):
        assert tuple(m for m, _ in x.items()) == present
        want = chunk_latents(latents(CHUNKS), Layout(CLOCK, CHUNKS), k)
        for m, y in x.items():
            assert y.shape == want.get(m).shape
            assert bool(y.isfinite().all())
            assert not y.requires_grad


def test_a_chunk_does_not_wait_for_the_next() -> None:
    """A longer clip begins with the shorter one, and chunks come as soon as they are made."""
    net, text = network(dtype=torch.float32), controls()
    first = latents(1, dtype=torch.float32).get("video")[:, :1]
    endless = generate(net, text, first, (2, CHANNELS["audio"]), 10**9, FEW, clip_noise())
    start = joined(list(islice(endless, 2)))
    whole = made_by(net, text, FEW, chunks=3)
    for m, x in start.items():
        assert torch.equal(x, whole.get(m)[:, : x.shape[1]])


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_the_clips_controls_matter_and_few_needs_no_second_branch(config: SamplerConfig) -> None:
    net, text = network(), controls()
    a, b = made_by(net, text, config, chunks=2), made_by(net, text.unconditional(), config, chunks=2)
    assert (a.get("video") - b.get("video")).abs().max() > 1e-3
    assert config.evaluations == (8 if config.mode == "multi" and config.guidance != 1 else 4)


def test_a_guidance_of_1_is_the_conditional_branch_alone() -> None:
    """Doubled streams at guidance 1 + 1e-12 agree with the single stream at 1."""
    net, text = network(), controls()
    single, doubled = (made_by(net, text, replace(FEW, mode="multi", guidance=g), chunks=2) for g in (1.0, 1.0 + 1e-12))
    assert_follows(single, doubled)


@pytest.mark.parametrize("config", [FEW, SamplerConfig("multi", 3, guidance=2.0, path=PATH)])
def test_a_clip_that_goes_on_is_the_clip_that_was_not_interrupted(config: SamplerConfig) -> None:
    """Six chunks at once, and four, then two after them: the window of two chunks is older than it can see, through two layers."""
    net, text = network(small_config(window=2)), controls()
    first = latents(1).get("video")[:, :1]
    whole = list(generate(net, text, first, (2, CHANNELS["audio"]), 6, config, clip_noise()))
    rest = list(generate(net, text, first, (2, CHANNELS["audio"]), 6, config, clip_noise(), past=whole[:4]))
    assert len(rest) == 2
    for a, b in zip(rest, whole[4:], strict=True):
        assert_near(a, b, atol=1e-9)


def test_latents_that_are_not_finite_are_refused_by_name() -> None:
    clip = latents(1)
    past = chunk_latents(clip, Layout(CLOCK, 1), 0)
    for broken, what in (("first", "first frame"), ("past", "past chunk 0, audio")):
        first, before = clip.get("video")[:, :1].clone(), past.map(torch.clone)
        (first if broken == "first" else before.get("audio")).view(-1)[0] = torch.nan
        with pytest.raises(ValueError, match=f"{what}: its latents are not all finite; encode it again"):
            next(generate(network(), controls(), first, (2, CHANNELS["audio"]), 2, FEW, clip_noise(), past=[before]))


def test_every_clip_needs_its_own_controls() -> None:
    first = latents(1).get("video")[:, :1]
    with pytest.raises(ValueError, match="first frame: of 1 clips, the controls are of 2; give each clip its own"):
        next(generate(network(), controls(), first[:1], (2, CHANNELS["audio"]), 1, FEW, clip_noise()))
    with pytest.raises(ValueError, match="audio: of 3 clips, the controls are of 2; give each clip its own"):
        next(generate(network(), controls(), first, (3, CHANNELS["audio"]), 1, FEW, clip_noise()))


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ({"mode": "mulit"}, "sampler.mode='mulit': choose few or multi"),
        ({"few_sampler": "euler"}, "sampler.few_sampler='euler': choose ode or renoise"),
        ({"moves": 0}, "sampler.moves=0: at least 1 a chunk"),
        ({"guidance": float("nan")}, "sampler.guidance=nan: must be 0 or more"),
    ],
)
def test_impossible_samplers_are_refused(bad: dict, message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        SamplerConfig(**bad)

"""What one training process holds, part by part, at the moments when it holds most.

    start      networks are made whole, one after the other, and given to DeepSpeed
    backward   of the losses: weights, state, gradients so far, what a forward kept, what a layer's backward needs
    gradients  its end: all gradients, what a layer's backward needs
    reduction  of the gradients: its buffer, and what has been reduced
    step       of the optimizer: gradients in fp32, AdamW's temporary copies; stages 1 and 2 have given the buffer back
    fake       the same four of the fake-score model, in a mutual stage

The most of these is what the process needs. It is the arithmetic of `workers/engine` and `workers/stage_run` under DeepSpeed 0.19; needs
PyTorch alone, so that `bench plan` runs on a bare machine.
"""

from __future__ import annotations

from dataclasses import dataclass

from ...model.activations import FP32, Activations

PARTS = ("weights", "gradients", "optimizer", "ema", "fake", "frozen", "start", "activations", "caches", "buffers")
BUCKET = 500_000_000  # numbers that are reduced at a time: DeepSpeed's default
LIVE = 1_000_000_000  # weights that ZeRO-3 has whole at a time, and that one group of its optimizer updates: its defaults
MOMENTS = 2 * FP32
GATHER = 256 * 2**20  # `workers.engine.GATHER`

Parts = dict[str, int]


@dataclass(frozen=True)
class Moment:
    """Bytes by part at one time."""

    name: str
    parts: Parts

    @property
    def total(self) -> int:
        return sum(self.parts.values())


@dataclass(frozen=True)
class Load:
    """One stage as a process sees it.

    weights, trained: numbers of the network, and of those under training; largest: of its largest parameter; small: of parameters that
    ZeRO-3 keeps whole. item: bytes of a number of the network under training. zero, ranks: DeepSpeed's stage, and how many share. offload:
    the optimizer is the host's. fake: numbers of the fake score's own weights (0: there is none); frozen: an outside teacher is kept.
    live, teacher: activations of the network under training and of the averaged one. every: of `execution.checkpoint_every`. clips: of a
    forward; backwards, fakes: in a step, and in an update of the fake score. read: clips whose past the teacher keeps read (guidance reads
    each twice). start: the weights that the stage began with stay in the host's memory. lazy: the host's memory is meant, which counts when
    it is written to, and where AdamW goes through one tensor after the other; a GPU's is taken when it is asked for.
    """

    weights: int
    trained: int
    largest: int
    small: int
    item: int
    zero: int
    ranks: int
    live: Activations
    teacher: Activations
    every: int
    clips: int
    backwards: int
    fakes: int = 1
    read: int = 0
    fake: int = 0
    frozen: bool = False
    start: bool = False
    offload: bool = False
    lazy: bool = False


def share(numbers: int, zero: int, least: int, ranks: int) -> int:
    """Of so many numbers, those of one process where stages from `least` on share them out, rounded up."""
    return -(-numbers // ranks) if zero >= least else numbers


@dataclass(frozen=True)
class Trained:
    """One network under training, in bytes. standing: buffers that it has as long as it lives; backward: those of a backward; whole,
    between, own: gradients while a backward goes on, between two of them, and when they are reduced; reduced, step: buffers of their
    reduction and of the optimizer.
    """

    weights: int
    optimizer: int
    standing: int
    backward: int
    whole: int
    between: int
    own: int
    reduced: int
    step: int

    @property
    def held(self) -> int:
        return self.weights + self.optimizer + self.standing


def trained(load: Load, weights: int, of_it: int) -> Trained:
    """A network of so many weights of which `of_it` are under training."""
    zero, ranks, item = load.zero, load.ranks, load.item
    mine = share(of_it, zero, 1, ranks)
    masters = FP32 * mine if zero in (1, 2) or (zero == 3 and item < FP32) else 0
    optimizer = 0 if load.offload else MOMENTS * mine + masters
    together = item * min(of_it, BUCKET)  # gradients that are reduced at a time, which are copied into one piece
    bucket = together if load.lazy else item * BUCKET
    if zero == 0:
        temporary = 2 * FP32 * load.largest if load.lazy else FP32 * of_it
        every = item * of_it
        return Trained(item * weights, optimizer, 0, 0, every, every, every, together, temporary)
    group = min(mine, LIVE) if zero == 3 else mine
    copies = 0 if load.offload else (2 if load.lazy else 1) * FP32 * group  # AdamW's root of the second moment, and its quotient
    if zero == 3:
        kept = item * (share(weights - load.small, zero, 3, ranks) + load.small)
        gathered = item * min(weights, LIVE)
        standing = bucket + (0 if load.offload else item * mine)
        flat = 0 if load.offload else (item + FP32) * group  # gathered from the shares, then as the optimizer takes them
        return Trained(kept, optimizer, standing, gathered, 0, 0, 0, gathered + together, flat + copies)
    copied = zero == 1 or item < FP32  # stage 2 in fp32 gives the optimizer what it has gathered
    flat = FP32 * mine if copied and not load.offload else 0
    between, waiting = item * (of_it if zero == 1 else mine), item * max(0, of_it - BUCKET) if zero == 1 else 0
    own = item * mine + waiting
    taken = 0 if load.lazy else bucket  # at the first backward; it is given back before the optimizer's step
    return Trained(item * weights, optimizer, 0, taken, item * of_it, between, own, bucket + together, flat + copies)


def moments(load: Load) -> tuple[Moment, ...]:
    """The moments when the process holds most."""
    main = trained(load, load.weights, load.trained)
    fake = trained(load, load.fake, load.fake) if load.fake else None
    held = dict.fromkeys(PARTS, 0) | {
        "weights": main.weights,
        "optimizer": main.optimizer,
        "ema": FP32 * load.weights,
        "fake": fake.held if fake else 0,
        "frozen": FP32 * load.weights if load.frozen else 0,
        "start": FP32 * load.weights if load.start and load.lazy else 0,
        "buffers": main.standing,
    }
    made = _starts(load, held)
    made += _of_network(load, held, main, "", load.backwards, load.read)
    if fake:
        made += _of_network(load, held, fake, "fake ", load.fakes, 0)
    return tuple(made)


def _starts(load: Load, held: Parts) -> list[Moment]:
    """A network is whole before DeepSpeed has it. Under stage 3 it is so on the host alone, and goes to a GPU parameter by parameter
    (`workers.engine.settled`).
    """
    if load.zero == 3 and not load.lazy:
        return []
    first = dict.fromkeys(PARTS, 0) | {"ema": held["ema"], "start": held["start"]}
    made = [Moment("start", _plus(first, weights=_given(load, load.weights)))]
    if load.fake:
        second = held | {"fake": 0}
        made.append(Moment("start of the fake score", _plus(second, fake=_given(load, load.fake))))
    return made


def peak(load: Load) -> Moment:
    """The moment when it holds most."""
    return max(moments(load), key=lambda moment: moment.total)


def _of_network(load: Load, held: Parts, net: Trained, name: str, backwards: int, read: int) -> list[Moment]:
    kept = load.live.saved(load.every, load.clips)
    needs = load.live.recomputed(load.every, load.clips) + load.live.backward(load.clips)
    before = net.between if backwards > 1 else 0
    caches = load.teacher.reading(read) if read else 0
    taught = load.teacher.transient(read) if read else 0
    first = _plus(held, gradients=before, activations=kept + max(needs, taught), caches=caches, buffers=net.backward)
    end = _plus(held, gradients=max(net.whole, before), activations=needs, buffers=net.backward)
    reduced = _plus(held, gradients=net.own, buffers=net.reduced)
    step = _plus(held, gradients=net.own, buffers=net.step)
    return [
        Moment(f"{name}{what}", parts) for what, parts in (("backward", first), ("gradients", end), ("reduction", reduced), ("step", step))
    ]


def _given(load: Load, weights: int) -> int:
    """What a network takes while DeepSpeed makes its own of it: whole in fp32; then, in its precision, twice, with masters."""
    whole = FP32 * weights
    return max(whole, 2 * load.item * weights + FP32 * share(weights, load.zero, 1, load.ranks)) if load.zero in (1, 2) else whole


def _plus(parts: Parts, **more: int) -> Parts:
    return parts | {name: parts[name] + bytes_ for name, bytes_ in more.items()}

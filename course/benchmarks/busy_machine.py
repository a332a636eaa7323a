"""Measure what training loses where other programs want the processor too, and what waiting threads have to do with it.

OpenMP's threads by default spin while they wait for each other. Alone that is fast. Beside other work, a thread that
spins takes the core from the one that it waits for. `OMP_WAIT_POLICY=PASSIVE`, which the course sets in its packages,
lets them sleep. Each measurement is a process of its own, because OpenMP reads its settings once.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from common.errors import CourseError
from common.progress import tell

RIVALS = (0, 1, 3)
"""Busy processes beside the training, each of one thread."""
WAITING = {"wait": {"OMP_WAIT_POLICY": "PASSIVE"}, "spin": {"GOMP_SPINCOUNT": "300000"}}
"""How threads wait, and the setting for it. The second is the default of gcc's OpenMP, which torch brings."""
ROUNDS = 1
STEPS = {"towers": 3, "cross-encoder": 3}
"""Training steps that are timed, after one that is not."""
BATCH, QUERIES, PRODUCTS = 16, 4, 8


def main(
    *, rounds: int = ROUNDS, steps: dict[str, int] = STEPS, rivals: Sequence[int] = RIVALS
) -> list[dict[str, Any]]:
    """Measure both trainings with every number of rivals and either way of waiting; about ten minutes on two cores.

    Returns a row for each training and number of rivals: name, ours (threads wait passively), peer (threads spin),
    unit, our_value and peer_value (the best of the rounds, which take turns), ratio, and `share`: our speed as a share
    of our speed alone.
    """
    rows = []
    for training, count in steps.items():
        best: dict[tuple[int, str], float] = {}
        for _ in range(rounds):
            for other in rivals:
                for waiting in WAITING:
                    rate = measure(training, count, other, waiting)
                    best[other, waiting] = max(rate, best.get((other, waiting), 0.0))
        rows += [_row(training, other, best, min(rivals)) for other in rivals]
    return rows


def measure(training: str, steps: int, rivals: int, waiting: str) -> float:
    """Return the steps a second of a training beside so many busy processes."""
    settings = {"OMP_NUM_THREADS", "OMP_WAIT_POLICY", "GOMP_SPINCOUNT"}
    environment = {name: value for name, value in os.environ.items() if name not in settings}
    environment |= {"COURSE_QUIET": "1"} | WAITING[waiting]
    code = f"from {__name__} import time_training; print(time_training({training!r}, {steps}))"
    with busy(rivals):
        done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    if done.returncode:
        raise CourseError(f"busy-machine: the training of {training} failed:\n{done.stderr[-2000:]}")
    seconds = float(done.stdout.splitlines()[-1])
    tell(f"{training}, {rivals} busy, threads {waiting}: {steps / seconds:.2f} steps/s")
    return steps / seconds


@contextmanager
def busy(count: int) -> Iterator[list[subprocess.Popen]]:
    """Keep `count` processes computing, each in one thread."""
    running = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(count)]
    try:
        yield running
    finally:
        for process in running:
            process.kill()
            process.wait()


def time_training(training: str, steps: int) -> float:
    """Take one step that is not timed and then `steps` of a training on made-up texts; return their seconds."""
    taken = {"towers": _train_towers, "cross-encoder": _train_cross_encoder}[training]
    return taken(steps)


def _train_towers(steps: int) -> float:
    from common.devices import choose_placement
    from common.encoders import MINILM
    from course.benchmarks.pairs import Pairs
    from course.benchmarks.tower_training import OurTraining

    batch = Pairs([f"a blue chair of kind {n}" for n in range(BATCH)], [_product(n) for n in range(BATCH)])
    placement = choose_placement("torch")
    ours = OurTraining(MINILM, placement, steps + 1, placement.precision == "bfloat16")
    first, *_, last = ours.train([batch] * (steps + 1))
    return last - first


def _train_cross_encoder(steps: int) -> float:
    from chapter01_baseline.cross_encoder import new_cross_encoder
    from chapter01_baseline.rerank import RerankConfig, train_cross_encoder
    from chapter01_baseline.training_lists import GradedList
    from common.encoders import MINILM

    config = RerankConfig(epochs=1, queries_per_step=QUERIES)
    one = GradedList("a blue chair", [_product(n) for n in range(PRODUCTS)], [n % 4 for n in range(PRODUCTS)])
    model = new_cross_encoder(MINILM, max_length=config.max_length, seed=0)
    train_cross_encoder(model, [one] * QUERIES, config)
    started = time.perf_counter()
    train_cross_encoder(model, [one] * QUERIES * steps, config)
    return time.perf_counter() - started


def _product(number: int) -> str:
    return f"Chair number {number} of painted beech, with a woven seat, arm rests and felt under its feet, 45 x 52 cm"


def _row(training: str, rivals: int, best: dict[tuple[int, str], float], alone: int) -> dict[str, Any]:
    passive, spinning = best[rivals, "wait"], best[rivals, "spin"]
    beside = "alone" if not rivals else f"beside {rivals} busy process{'es' if rivals > 1 else ''}"
    return {
        "name": f"busy-machine, {training} {beside}",
        "ours": "threads wait passively",
        "peer": "threads spin",
        "unit": "steps/s",
        "our_value": round(passive, 2),
        "peer_value": round(spinning, 2),
        "ratio": round(passive / spinning, 2),
        "share": round(passive / best[alone, "wait"], 3),
    }

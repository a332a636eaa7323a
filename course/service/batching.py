"""Answer questions that arrive at the same time together: dynamic micro-batching without added delay.

    batcher = MicroBatcher(answer_all, executor, key=lambda question: question.k)
    reply = await batcher.ask(question)     # answer_all([question, ...]) -> [reply, ...], in the executor's thread

A question that arrives alone is answered alone and at once. While the thread works, questions gather, and they are its
next batch: the busier the service, the larger its batches.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Hashable
from concurrent.futures import Executor
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import islice
from threading import Lock
from time import perf_counter
from typing import Any, Generic, TypeVar

from course.service.answers import Overloaded

Question = TypeVar("Question")
Reply = TypeVar("Reply")
Outcome = tuple[Any, BaseException | None]
"""(reply, None) or (None, error). A future's own exception is not used: asyncio logs one that nobody fetches."""

KEYS_REMEMBERED = 1_000
NEWEST = 0.5  # weight of the newest batch in the running mean of seconds per question


@dataclass
class BatchStats:
    """questions, batches: those that were computed; a question asked again counts again. largest: questions in the
    largest batch. waiting: questions not in a batch yet."""

    questions: int = 0
    batches: int = 0
    largest: int = 0
    waiting: int = 0


@dataclass(eq=False, slots=True)
class _Asked:
    question: Any
    key: Hashable
    future: asyncio.Future[Outcome]
    alone: bool = False  # its batch raised, so it is asked again by itself


class MicroBatcher(Generic[Question, Reply]):
    """Answer many questions with one call of a function; see the module.

    A batch is the question that has waited longest and the others of its key, oldest first, so no key starves. Several
    batchers may share an executor of one thread: each takes one batch per turn, chosen when its turn comes. Call all
    methods from one event loop (another loop may follow when nothing waits); close before the executor is shut down.

    answer: maps questions to as many replies, in order; runs in `executor`, never twice at a time. If it raises for a
    batch, its questions are asked again one by one. key: questions with different keys are never in one batch.
    max_batch: questions in one batch at most; 1 asks one by one. max_waiting: more questions are refused. longest:
    seconds that a batch may take, estimated by the running mean for its key; a new key starts with one question.
    """

    def __init__(
        self,
        answer: Callable[[list[Question]], list[Reply]],
        executor: Executor,
        *,
        key: Callable[[Question], Hashable],
        max_batch: int = 64,
        max_waiting: int = 1024,
        longest: float = 1.0,
    ) -> None:
        self._answer, self._executor, self._key = answer, executor, key
        self._max_batch, self._max_waiting, self._longest = max_batch, max_waiting, longest
        self._lock = Lock()  # guards what the loop and the executor's thread both use: the next three
        self._waiting: dict[_Asked, None] = {}  # the oldest first
        self._queued = False  # the executor has a turn that has not ended
        self._computed = BatchStats()
        self._seconds: dict[Hashable, float] = {}  # per question, by key; the key used last is last
        self._loop: asyncio.AbstractEventLoop | None = None
        self._unanswered: set[asyncio.Future[Outcome]] = set()
        self._closed = False

    @property
    def stats(self) -> BatchStats:
        """Return the current counts."""
        with self._lock:
            return replace(self._computed, waiting=len(self._waiting))

    async def ask(self, question: Question) -> Reply:
        """Return the reply to one question.

        Raises what `answer` raises for it, and `Overloaded` if too many wait, or after `close`. Cancelling takes the
        question back if its batch has not begun.
        """
        if self._closed:
            raise Overloaded("the service is stopping")
        if len(self._waiting) >= self._max_waiting:
            raise Overloaded(f"{self._max_waiting:,} questions wait already; ask again in a moment")
        asked = _Asked(question, self._key(question), self._new_future())
        hash(asked.key)  # a key without a hash raises here, not unnoticed in the thread
        with self._lock:
            if not self._queued:
                self._executor.submit(self._turn)
                self._queued = True
            self._waiting[asked] = None
        self._unanswered.add(asked.future)
        try:
            reply, error = await asked.future
        finally:
            self._unanswered.discard(asked.future)
            with self._lock:
                self._waiting.pop(asked, None)  # cancelled
        if error is None:
            return reply
        try:
            raise error
        finally:
            del asked, error  # the error's traceback holds this frame: see `_deliver`

    async def close(self) -> None:
        """Refuse new questions; return when all earlier ones are answered."""
        self._closed = True
        while self._unanswered:
            await asyncio.wait(self._unanswered)

    def _new_future(self) -> asyncio.Future[Outcome]:
        loop = asyncio.get_running_loop()
        if loop is not self._loop and self._unanswered:
            raise RuntimeError("MicroBatcher: questions of another event loop wait; make one for each loop")
        self._loop = loop
        return loop.create_future()

    def _turn(self) -> None:
        """Answer one batch, in the executor's thread; if more wait, queue for another turn behind other batchers."""
        batch = self._take()
        outcomes = self._outcomes(batch) if batch else []
        if outcomes:
            with suppress(RuntimeError):  # the loop is closed, so nobody waits for the answer
                batch[0].future.get_loop().call_soon_threadsafe(_deliver, batch, outcomes)
        with self._lock:
            if outcomes is None:
                for one in batch:
                    one.alone = True
                self._waiting = dict.fromkeys(batch) | self._waiting
            self._queued = bool(self._waiting)
            if self._queued:
                self._executor.submit(self._turn)

    def _take(self) -> list[_Asked]:
        """Return the next batch; empty if all its questions were cancelled."""
        with self._lock:
            first = next(iter(self._waiting), None)
            if first is None:
                return []
            seconds = max(self._seconds.get(first.key, math.inf), 1e-9)  # the clock may not have advanced
            room = 1 if first.alone else max(1, min(self._max_batch, int(self._longest / seconds)))
            taken = list(islice((one for one in self._waiting if one.key == first.key), room))
            for one in taken:
                del self._waiting[one]
            batch = [one for one in taken if not one.future.cancelled()]
            self._computed.questions += len(batch)
            self._computed.batches += bool(batch)
            self._computed.largest = max(self._computed.largest, len(batch))
            return batch

    def _outcomes(self, batch: list[_Asked]) -> list[Outcome] | None:
        """Return the outcome of each question; None if the batch raised, and each has to be asked alone."""
        began = perf_counter()
        try:
            replies = list(self._answer([one.question for one in batch]))
        except (
            BaseException
        ) as error:  # a panic in Rust code (a tokenizer) is not an Exception, and must be reported too
            return [(None, error)] if len(batch) == 1 else None
        self._learn(batch[0].key, (perf_counter() - began) / len(batch))
        if len(replies) != len(batch):
            wrong = f"MicroBatcher: {len(replies)} replies to {len(batch)} questions; one each is needed"
            return [(None, RuntimeError(wrong)) for _ in batch]
        return [(reply, None) for reply in replies]

    def _learn(self, key: Hashable, seconds: float) -> None:
        mean = self._seconds.pop(key, seconds)
        self._seconds[key] = mean + NEWEST * (seconds - mean)
        if len(self._seconds) > KEYS_REMEMBERED:
            del self._seconds[next(iter(self._seconds))]


def _deliver(batch: list[_Asked], outcomes: list[Outcome]) -> None:
    """Hand out the outcomes and empty the lists.

    An error's traceback holds the frames that refer to the lists. That cycle would keep the questions, pictures among
    them, in memory until the next full garbage collection.
    """
    for one, outcome in zip(batch, outcomes, strict=True):
        if not one.future.done():
            one.future.set_result(outcome)
    batch.clear()
    outcomes.clear()

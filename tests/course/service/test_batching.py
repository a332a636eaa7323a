import asyncio
import functools
import gc
import threading
import weakref
from collections import deque
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import pairwise
from unittest.mock import patch

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.errors import CourseError
from course.service import batching
from course.service.answers import Overloaded
from course.service.batching import BatchStats, MicroBatcher


def in_a_loop(test):
    """A test that is a coroutine, run in an event loop of its own; an answer that never comes fails it."""

    @functools.wraps(test)
    def run(*args, **kwargs):
        asyncio.run(asyncio.wait_for(test(*args, **kwargs), 20))

    return run


class ByHand(Executor):
    """Runs its jobs in the test's own thread, one for each `turn`: so every interleaving can be written down."""

    def __init__(self):
        self.jobs = deque()

    def submit(self, job, /, *args, **kwargs):
        self.jobs.append(job)
        return Future()

    def turn(self):
        self.jobs.popleft()()


async def settle():
    """Let everybody who can go on do so."""
    for _ in range(4):
        await asyncio.sleep(0)


async def turns(executor):
    """Take turns until nothing is left to do."""
    await settle()
    while executor.jobs:
        executor.turn()
        await settle()


async def ask_all(batcher, executor, questions):
    """Ask them in this order, then answer; their outcomes."""
    tasks = [asyncio.create_task(batcher.ask(question)) for question in questions]
    await turns(executor)
    return await asyncio.gather(*tasks, return_exceptions=True)


class Recorder:
    """Answers (key, number) with "key number", and keeps the batches."""

    def __init__(self, executor, **options):
        self.executor, self.batches = executor, []
        self.batcher = MicroBatcher(self.answer, executor, key=lambda question: question[0], **options)

    def answer(self, questions):
        self.batches.append(list(questions))
        return [f"{key} {number}" for key, number in questions]

    async def know(self, keys="ab"):
        """Ask a question of each key, since the first of a key is asked alone; what follows may be a large batch."""
        for key in keys:
            await ask_all(self.batcher, self.executor, [(key, -1)])
        self.batches.clear()

    def start(self, *questions):
        return [asyncio.create_task(self.batcher.ask(question)) for question in questions]


def numbers(key, stop, start=0):
    return [(key, number) for number in range(start, stop)]


# what goes into a batch


@in_a_loop
async def test_a_batch_is_all_that_waits_of_the_oldest_key():
    executor = ByHand()
    asked = Recorder(executor)
    await asked.know()
    questions = [("b", 0), ("a", 1), ("b", 2), ("a", 3), ("b", 4)]
    assert await ask_all(asked.batcher, executor, questions) == ["b 0", "a 1", "b 2", "a 3", "b 4"]
    assert asked.batches == [[("b", 0), ("b", 2), ("b", 4)], [("a", 1), ("a", 3)]]
    assert asked.batcher.stats == BatchStats(questions=7, batches=4, largest=3, waiting=0)


@in_a_loop
async def test_a_batch_is_chosen_when_its_turn_comes():
    executor = ByHand()
    asked = Recorder(executor)
    await asked.know()
    tasks = []
    for number in range(3):  # the thread is busy with something else meanwhile
        tasks += asked.start(("a", number))
        await settle()
    assert len(executor.jobs) == 1 and asked.batcher.stats.waiting == 3
    executor.turn()
    assert asked.batches == [numbers("a", 3)] and not executor.jobs
    assert await asyncio.gather(*tasks) == ["a 0", "a 1", "a 2"]


@pytest.mark.parametrize("cap", [1, 3])
@in_a_loop
async def test_no_batch_is_larger_than_the_cap_and_no_key_starves(cap):
    executor = ByHand()
    asked = Recorder(executor, max_batch=cap)
    await asked.know()
    tasks = asked.start(("a", 0), ("b", 0), *numbers("a", 7, start=1))
    await settle()
    while executor.jobs:  # as fast as they are answered, new ones of the popular key come
        executor.turn()
        if len(tasks) < 30:
            tasks += asked.start(*numbers("a", len(tasks) - 1 + cap, start=len(tasks) - 1))
        await settle()
    assert asked.batches[1] == [("b", 0)]  # next after the oldest of the flood
    flood = [question for batch in asked.batches for question in batch if question[0] == "a"]
    assert flood == numbers("a", len(tasks) - 1) and len(tasks) >= 30
    assert max(map(len, asked.batches)) == cap == asked.batcher.stats.largest
    assert await asyncio.gather(*tasks[:3]) == ["a 0", "b 0", "a 1"]


@in_a_loop
async def test_batchers_of_one_executor_take_turns():
    executor, order = ByHand(), []

    def batcher(name):
        return MicroBatcher(lambda them: order.append(name) or them, executor, key=lambda _: 0, max_batch=1)

    batchers = [batcher(name) for name in "xyz"]
    tasks = [asyncio.create_task(one.ask(number)) for one in batchers for number in range(4)]
    await turns(executor)
    assert order == list("xyz") * 4
    assert await asyncio.gather(*tasks) == [*range(4)] * 3


# time


@pytest.fixture
def clock(monkeypatch):
    """A clock that stands still unless `clock.now` is moved."""

    class Clock:
        now = 0.0

    monkeypatch.setattr(batching, "perf_counter", lambda: Clock.now)
    return Clock


@in_a_loop
async def test_a_batch_takes_no_longer_than_it_may(clock):
    seconds = {"cheap": 0.001, "dear": 0.1, "dearest": 30}
    executor, sizes = ByHand(), []

    def answer(questions):
        sizes.append(len(questions))
        clock.now += seconds[questions[0]] * len(questions)
        return questions

    batcher = MicroBatcher(answer, executor, key=str, longest=0.55)
    for name in seconds:
        await ask_all(batcher, executor, [name] * 80)
    assert sizes[:3] == [1, 64, 15]
    assert sizes[3:20] == [1, *[5] * 15, 4]
    assert sizes[20:] == [1] * 80
    seconds["dear"] = 0.01  # it has become quicker, and that is found out
    sizes.clear()
    await ask_all(batcher, executor, ["dear"] * 300)
    assert sizes[0] == 5 and max(sizes) >= 50 and all(one <= other for one, other in pairwise(sizes[:-1]))


@in_a_loop
async def test_only_so_many_keys_are_remembered(monkeypatch):
    monkeypatch.setattr(batching, "KEYS_REMEMBERED", 2)
    executor = ByHand()
    asked = Recorder(executor)
    await asked.know("abac")  # b was not used for longest
    await ask_all(asked.batcher, executor, [*numbers("a", 3), *numbers("b", 3)])
    assert [len(batch) for batch in asked.batches] == [3, 1, 2]


# errors


@pytest.mark.parametrize("error", [CourseError("bad"), StopIteration(), BaseException("panicked"), MemoryError()])
@in_a_loop
async def test_an_error_reaches_the_one_who_asked_for_it(error):
    class Failing(Recorder):
        def answer(self, questions):
            replies = super().answer(questions)
            if ("a", 1) in questions:
                raise error
            return replies

    executor = ByHand()
    asked = Failing(executor)
    await asked.know()
    tasks = asked.start(*numbers("a", 3), ("b", 0))
    await turns(executor)
    caught = tasks[1].exception()
    assert error in (caught, caught.__cause__)  # Python lets no coroutine raise StopIteration
    assert (tasks[0].result(), tasks[2].result(), tasks[3].result()) == ("a 0", "a 2", "b 0")
    assert asked.batches == [numbers("a", 3), [("a", 0)], [("a", 1)], [("a", 2)], [("b", 0)]]


@in_a_loop
async def test_what_fails_only_together_is_no_error():
    def answer(questions):
        if len(questions) > 1:
            raise MemoryError
        return questions

    executor = ByHand()
    batcher = MicroBatcher(answer, executor, key=lambda _: 0)
    assert await ask_all(batcher, executor, [1, 2, 3, 4]) == [1, 2, 3, 4]
    assert batcher.stats == BatchStats(questions=1 + 3 + 3, batches=1 + 1 + 3, largest=3)


@pytest.mark.parametrize("replies", [2, 4])
@in_a_loop
async def test_replies_that_are_not_as_many_as_questions_fail_them_all(replies):
    class Wrong(Recorder):
        def answer(self, questions):
            found = super().answer(questions)
            return ["a reply"] * replies if len(questions) == 3 else found

    executor = ByHand()
    asked = Wrong(executor)
    await asked.know()
    errors = await ask_all(asked.batcher, executor, numbers("a", 3))
    message = f"MicroBatcher: {replies} replies to 3 questions; one each is needed"
    assert [(type(error), str(error)) for error in errors] == [(RuntimeError, message)] * 3
    assert asked.batches == [numbers("a", 3)]
    assert await ask_all(asked.batcher, executor, [("a", 9)]) == ["a 9"]


@in_a_loop
async def test_no_replies_at_all_and_no_proper_key_are_errors_too():
    executor = ByHand()
    nothing = MicroBatcher(lambda questions: None, executor, key=lambda _: 0)
    assert [type(error) for error in await ask_all(nothing, executor, [1, 2, 3])] == [TypeError] * 3
    for key, expected in ((lambda question: question.size, AttributeError), (lambda question: [question], TypeError)):
        batcher = MicroBatcher(list, executor, key=key)
        (error,) = await ask_all(batcher, executor, [1])
        assert isinstance(error, expected) and batcher.stats == BatchStats() and not executor.jobs


@pytest.mark.parametrize("company", [0, 1])
def test_a_question_that_failed_is_not_kept_in_memory(company):
    class Picture:
        pass

    def answer(questions):
        if any(isinstance(question, Picture) for question in questions):
            raise CourseError("no picture")
        return questions

    async def client(batcher):
        picture = Picture()
        with pytest.raises(CourseError, match="no picture"):
            await batcher.ask(picture)
        return weakref.ref(picture)

    async def scene():
        with ThreadPoolExecutor(1) as executor:
            batcher = MicroBatcher(answer, executor, key=lambda _: 0)
            await batcher.ask("known")
            kept, *_ = await asyncio.gather(client(batcher), *(batcher.ask("text") for _ in range(company)))
        return kept() is None

    gc.disable()
    try:
        assert asyncio.run(scene())
    finally:
        gc.enable()


# who goes away, and who comes when it is full


@in_a_loop
async def test_a_question_taken_back_is_not_computed_and_harms_nobody():
    executor = ByHand()
    asked = Recorder(executor)
    await asked.know()
    tasks = asked.start(*numbers("a", 5))
    await settle()
    tasks[0].cancel()
    tasks[3].cancel()
    await settle()
    assert asked.batcher.stats.waiting == 3
    tasks[1].cancel()  # at the last moment: it has not even been told
    executor.turn()
    assert asked.batches == [[("a", 2), ("a", 4)]]
    await asyncio.wait(tasks)
    assert [task.cancelled() or task.result() for task in tasks] == [True, True, "a 2", True, "a 4"]


@pytest.mark.parametrize("failing", [False, True])
@in_a_loop
async def test_going_away_while_a_batch_is_computed_harms_nobody_in_it(failing):
    class LosingOne(Recorder):
        def answer(self, questions):
            replies = super().answer(questions)
            if len(questions) == 3:
                tasks[1].cancel()
                if failing:
                    raise CourseError("one of them")
            return replies

    executor = ByHand()
    asked = LosingOne(executor)
    await asked.know()
    tasks = asked.start(*numbers("a", 3))
    await turns(executor)
    assert (tasks[0].result(), tasks[1].cancelled(), tasks[2].result()) == ("a 0", True, "a 2")
    assert asked.batches == [numbers("a", 3), *([[("a", 0)], [("a", 2)]] if failing else [])]


@in_a_loop
async def test_too_many_waiting_are_refused_until_some_are_answered_or_gone():
    executor = ByHand()
    asked = Recorder(executor, max_waiting=3)
    tasks = asked.start(*numbers("a", 3))
    await settle()
    with pytest.raises(Overloaded, match="3 questions wait already"):
        await asked.batcher.ask(("b", 0))
    tasks[2].cancel()
    await settle()
    tasks += asked.start(("a", 3))
    await turns(executor)
    assert [task.cancelled() or task.result() for task in tasks] == ["a 0", "a 1", True, "a 3"]
    assert await ask_all(asked.batcher, executor, [("b", 1)]) == ["b 1"]


# the end, and the loop


@in_a_loop
async def test_closing_answers_what_waits_and_refuses_the_rest():
    executor = ByHand()
    asked = Recorder(executor, max_batch=1)
    tasks = asked.start(*numbers("a", 4))
    await settle()
    executor.turn()
    closing = [asyncio.create_task(asked.batcher.close()) for _ in range(2)]
    await settle()
    tasks[3].cancel()
    for answered in (1, 2):
        assert sum(task.done() for task in tasks[:3]) == answered and not closing[0].done()
        with pytest.raises(Overloaded, match=r"^the service is stopping$"):
            await asked.batcher.ask(("a", 9))
        executor.turn()
        await settle()
    await asyncio.gather(*closing)
    assert [task.cancelled() or task.result() for task in tasks] == ["a 0", "a 1", "a 2", True]
    await asked.batcher.close()


def test_one_that_was_never_asked_can_be_closed():
    batcher = MicroBatcher(list, ByHand(), key=lambda _: 0)  # made outside of any loop
    asyncio.run(batcher.close())
    with pytest.raises(Overloaded, match="stopping"):
        asyncio.run(batcher.ask(1))


def test_one_event_loop_at_a_time():
    executor = ByHand()
    asked = Recorder(executor)

    async def second():
        return await ask_all(asked.batcher, executor, [("a", 1)])

    async def first():
        tasks = asked.start(("a", 0))
        await settle()
        (error,) = await asyncio.to_thread(asyncio.run, second())
        assert isinstance(error, RuntimeError) and "another event loop" in str(error)
        await turns(executor)
        assert await tasks[0] == "a 0"

    async def leaving():
        asked.start(("a", 2))
        await settle()

    asyncio.run(first())
    assert asyncio.run(second()) == ["a 1"]
    asyncio.run(leaving())  # its loop ends, and nobody waits for the answer any more
    assert asyncio.run(second()) == ["a 1"]


def test_a_loop_that_ended_while_its_batch_was_computed():
    begun, go_on = threading.Event(), threading.Event()

    def answer(questions):
        begun.set()
        assert go_on.wait(10)
        return questions

    async def leave(batcher):
        task = asyncio.create_task(batcher.ask(1))
        assert await asyncio.to_thread(begun.wait, 10)
        return task

    with ThreadPoolExecutor(1) as executor:
        batcher = MicroBatcher(answer, executor, key=lambda _: 0)
        assert asyncio.run(leave(batcher)).cancelled()
        go_on.set()
        assert asyncio.run(asyncio.wait_for(batcher.ask(2), 20)) == 2


# in general


@dataclass(frozen=True)
class Ask:
    """A question. goes_wrong: "" (never), "alone" (always) or "together" (in a batch of two or more, for all of it).
    hangs_up: while it is computed, that many askers before it go away."""

    batcher: int
    key: str
    goes_wrong: str = ""
    hangs_up: int | None = None


@dataclass(frozen=True)
class HangUp:
    asker: int


TURN, SETTLE = "turn", "settle"
ASKS = st.builds(
    Ask,
    st.integers(0, 1),
    st.sampled_from("abc"),
    st.sampled_from(["", "", "", "", "alone", "together"]),
    st.none() | st.none() | st.integers(0, 5),
)
STEP = ASKS | ASKS | ASKS | st.builds(HangUp, st.integers(0, 30)) | st.sampled_from([TURN, SETTLE])
STEPS = st.lists(STEP, min_size=12)
SECONDS = {"a": 0.0, "b": 0.04, "c": 0.3}
LONGEST = 0.1


class Script:
    """`play` returns the reply, the error or None (gone) for each question, in the order asked."""

    def __init__(self, max_batch):
        self.max_batch, self.executor = max_batch, ByHand()
        self.batchers = [self.batcher() for _ in range(2)]
        self.tasks, self.gone, self.now, self.known = [], set(), 0.0, set()

    def batcher(self):
        def answer(questions):
            self.check(batcher, questions)
            self.now += SECONDS[questions[0][1].key] * len(questions)
            for number, asked in questions:
                if asked.hangs_up is not None:
                    self.hang_up(number - asked.hangs_up)
            wrong = [number for number, asked in questions if asked.goes_wrong == "alone"]
            if wrong or (len(questions) > 1 and any(asked.goes_wrong for _, asked in questions)):
                raise CourseError(f"question {wrong} went wrong")
            self.known.add((id(batcher), questions[0][1].key))
            return [number * number for number, _ in questions]

        options = {"max_batch": self.max_batch, "longest": LONGEST}
        batcher = MicroBatcher(answer, self.executor, key=lambda one: one[1].key, **options)
        return batcher

    def check(self, batcher, questions):
        """What holds for every batch."""
        asked = [number for number, _ in questions]
        (key,) = {one.key for _, one in questions}
        assert asked == sorted(set(asked)) and not self.gone & set(asked)
        assert all(self.batchers[one.batcher] is batcher for _, one in questions)
        cap = self.max_batch if (id(batcher), key) in self.known else 1
        assert len(asked) <= cap
        assert len(asked) == 1 or len(asked) * SECONDS[key] <= LONGEST + 1e-9

    def hang_up(self, asker):
        if 0 <= asker < len(self.tasks) and not self.tasks[asker].done():
            self.gone.add(asker)
            self.tasks[asker].cancel()

    async def play(self, steps):
        for step in steps:
            if isinstance(step, Ask):
                question = len(self.tasks), step
                self.tasks.append(asyncio.create_task(self.batchers[step.batcher].ask(question)))
            elif isinstance(step, HangUp):
                self.hang_up(step.asker)
            elif step == SETTLE:
                await settle()
            elif self.executor.jobs:
                self.executor.turn()
        await settle()
        closing = [asyncio.create_task(one.close()) for one in self.batchers]
        await turns(self.executor)
        assert all(one.done() for one in (*closing, *self.tasks))
        assert [one.stats.waiting for one in self.batchers] == [0, 0]
        return [None if one.cancelled() else one.exception() or one.result() for one in self.tasks]


def alone(number, asked):
    return f"question [{number}] went wrong" if asked.goes_wrong == "alone" else number * number


@given(steps=STEPS, max_batch=st.integers(1, 5))
@settings(deadline=None, max_examples=100)
def test_everybody_hears_what_asking_alone_would_say(steps, max_batch):
    asks = [step for step in steps if isinstance(step, Ask)]
    for cap in {1, max_batch}:
        script = Script(cap)
        with patch.object(batching, "perf_counter", lambda script=script: script.now):
            outcomes = asyncio.run(script.play(steps))
        assert {number for number, outcome in enumerate(outcomes) if outcome is None} == script.gone
        for number, outcome in enumerate(outcomes):
            if number not in script.gone:
                assert (str(outcome) if isinstance(outcome, CourseError) else outcome) == alone(number, asks[number])


@in_a_loop
async def test_clients_at_once_in_threads_of_their_own_time():
    """A real thread, two batchers, 32 clients who ask again as soon as they are answered; some fail, some go away."""
    sizes = []

    def answer(questions):
        sizes.append(len(questions))
        if any(question % 50 == 7 for question in questions):
            raise CourseError("7")
        return [question * question for question in questions]

    async def client(batcher, first):
        for question in range(first, first + 40):
            if question % 11 == 3:
                task = asyncio.create_task(batcher.ask(question))
                await asyncio.sleep(0)
                task.cancel()
                await asyncio.wait([task])
            elif question % 50 == 7:
                with pytest.raises(CourseError, match=r"^7$"):
                    await batcher.ask(question)
            else:
                assert await batcher.ask(question) == question * question

    with ThreadPoolExecutor(1) as executor:
        batchers = [MicroBatcher(answer, executor, key=lambda one: one % 3, max_batch=8) for _ in range(2)]
        await asyncio.gather(*(client(batchers[number % 2], number * 40) for number in range(32)))
        await asyncio.gather(*(one.close() for one in batchers))
    assert 1 < max(sizes) <= 8 and sum(sizes) == sum(one.stats.questions for one in batchers)
    assert len(sizes) == sum(one.stats.batches for one in batchers)

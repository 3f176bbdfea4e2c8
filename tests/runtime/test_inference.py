"""The graph in its own thread: right results, late ones, failures, a graph that never returns, the spread over latents."""

import threading

import numpy as np
import pytest
from graphs import chain, linear

from trudi.runtime.engines.base import Engine
from trudi.runtime.engines.onnx import OnnxCfg, OnnxEngine
from trudi.runtime.errors import EngineError
from trudi.runtime.inference import InferenceThread
from trudi.runtime.realtime import RealtimeCfg, monotonic_ns

PLAIN = RealtimeCfg(priority=0, lock_memory=False)
LONG_NS = 20_000_000_000


def row(*values):
    return np.array([values], np.float32)


def soon():
    return monotonic_ns() + LONG_NS


class Gated(Engine):
    """Passes everything to a linear graph, but waits for a gate first, and raises what it is told to."""

    def __init__(self, latent=True):
        self.engine = OnnxEngine(linear(latent=latent), OnnxCfg())
        super().__init__(self.engine.info, self.engine.buffers)
        self.gate, self.entered = threading.Event(), threading.Event()
        self.gate.set()
        self.error: Exception | None = None
        self.calls = []

    def infer(self, observation, latent=None):
        self.calls.append((observation.copy(), None if latent is None else latent.copy()))
        self.entered.set()
        assert self.gate.wait(30)
        if self.error is not None:
            raise self.error
        return self.engine.infer(observation, latent)

    def _run(self):
        raise AssertionError

    def _release(self):
        self.engine.close()


@pytest.fixture
def started():
    """Starts threads that are ended afterwards, with their gates open."""
    made = []

    def start(engine, spread=None):
        made.append((engine, InferenceThread(engine, PLAIN, spread)))
        return made[-1][1]

    yield start
    for engine, thread in made:
        if isinstance(engine, Gated):
            engine.gate.set()
        assert thread.close(10.0)
        engine.close()


def answer(thread, observation, latent=None):
    thread.submit(observation, latent)
    assert thread.busy and thread.wait(soon()) and not thread.busy
    return thread.action.tolist()


def test_actions_are_the_engines(started):
    model = chain()
    random = np.random.default_rng(0)
    with OnnxEngine(model, OnnxCfg()) as alone:
        thread = started(OnnxEngine(model, OnnxCfg()))
        for _ in range(20):
            observation = random.standard_normal((1, 9)).astype(np.float32)
            latent = random.standard_normal((1, 4)).astype(np.float32)
            assert answer(thread, observation, latent) == alone.infer(observation, latent).tolist()
            assert not thread.failed and 0 < thread.finished_ns <= monotonic_ns()
    assert np.isnan(thread.spread)


def test_actions_by_hand_with_and_without_a_latent(started):
    # 1*1 + 2*3 + 3*5 + 10*0.5 = 27; 1*2 + 2*4 + 3*6 + 10*(-0.5) = 23
    assert answer(started(OnnxEngine(linear(), OnnxCfg())), row(1, 2, 3), row(0.5, -0.5)) == [[27.0, 23.0]]
    assert answer(started(OnnxEngine(linear(latent=False), OnnxCfg())), row(1, 2, 3)) == [[22.0, 28.0]]


def test_what_is_submitted_is_copied(started):
    engine = Gated()
    engine.gate.clear()
    thread = started(engine)
    observation, latent = row(1, 2, 3), row(0.5, -0.5)
    thread.submit(observation, latent)
    observation[:], latent[:] = 9.0, 9.0
    engine.gate.set()
    assert thread.wait(soon()) and thread.action.tolist() == [[27.0, 23.0]]


def test_a_late_action_is_given_up_and_the_next_is_the_right_one(started):
    engine = Gated()
    engine.gate.clear()
    thread = started(engine)
    thread.submit(row(1, 2, 3), row(0, 0))
    assert not thread.wait(monotonic_ns() + 1_000_000) and thread.busy
    engine.gate.set()
    assert thread.wait(soon()), "it is taken off before the next is submitted, as the loop does"
    assert answer(thread, row(0, 0, 1), row(0, 0)) == [[5.0, 6.0]]
    assert not thread.wait(monotonic_ns()), "nothing is left over"


def test_waiting_for_a_graph_that_hangs_ends_at_the_deadline(started):
    engine = Gated()
    engine.gate.clear()
    thread = started(engine)
    thread.submit(row(1, 2, 3), row(0, 0))
    assert engine.entered.wait(10)
    for until_ns in (0, monotonic_ns() - 1, monotonic_ns() + 2_000_000):
        assert not thread.wait(until_ns)
        assert thread.busy and monotonic_ns() >= until_ns
    with pytest.raises(AssertionError):
        thread.submit(row(0, 0, 0), row(0, 0))


def test_waiting_for_nothing(started):
    assert not started(Gated()).wait(soon())


@pytest.mark.parametrize(
    "error", [EngineError("the card fell out"), RuntimeError("the card fell out"), MemoryError("the card fell out")]
)
def test_an_engine_that_raises_says_so_and_may_go_on(started, error):
    engine = Gated()
    thread = started(engine)
    assert answer(thread, row(1, 2, 3), row(0, 0)) == [[22.0, 28.0]]
    engine.error = error
    thread.submit(row(0, 0, 1), row(0, 0))
    assert thread.wait(soon()) and thread.failed
    assert thread.error == f"{type(error).__name__}: the card fell out"
    engine.error = None
    assert answer(thread, row(0, 0, 1), row(0, 0)) == [[5.0, 6.0]] and not thread.failed


def test_an_engine_that_does_not_fit_is_a_failure_too(started):
    thread = started(OnnxEngine(linear(), OnnxCfg()))
    thread._latent = None
    thread.submit(row(1, 2, 3), None)
    assert thread.wait(soon()) and thread.failed and "latent missing" in thread.error


def test_closing_ends_the_thread_and_twice_does_nothing(started):
    thread = started(Gated())
    assert thread.close() and thread.close()
    assert not thread._thread.is_alive()


def test_closing_beside_a_graph_that_hangs_does_not_wait_for_it(started):
    engine = Gated()
    engine.gate.clear()
    thread = started(engine)
    thread.submit(row(1, 2, 3), row(0, 0))
    assert engine.entered.wait(10)
    assert not thread.close(0.02) and not thread.close(0.0)
    engine.gate.set()
    assert thread.close(10.0), "and once it returns, it can be closed"


SPREAD = np.array([[0.0, 0.0], [1.0, 0.0], [2.0, 0.5]], np.float32)


def test_the_spread_is_the_largest_deviation_over_the_latents(started):
    engine = Gated()
    thread = started(engine, SPREAD)
    assert answer(thread, row(1, 2, 3), row(0, 0)) == [[22.0, 28.0]]
    assert answer(thread, row(0, 0, 1), row(0, 0)) == [[5.0, 6.0]], "the next one waits for the spread, and is right"
    # Of 10 * (0, 1, 2): variance 200 / 3. Of 10 * (0, 0, 0.5): less.
    assert thread.spread == pytest.approx(np.sqrt(200 / 3))
    latents = [latent.tolist() for _, latent in engine.calls[1:4]]
    assert latents == SPREAD[:, None].tolist(), "each once, behind the action that is waited for"
    assert all((observation == row(1, 2, 3)).all() for observation, _ in engine.calls[:4])


def test_the_action_is_handed_over_before_the_spread_is_measured(started):
    engine = Gated()
    thread = started(engine, SPREAD)
    original = engine.infer

    def infer(observation, latent=None):
        if len(engine.calls) >= 1:
            engine.gate.clear()  # what comes after the action hangs
        return original(observation, latent)

    thread._infer = infer
    assert answer(thread, row(1, 2, 3), row(0, 0)) == [[22.0, 28.0]]
    thread.submit(row(0, 0, 1), row(0, 0))
    assert not thread.wait(monotonic_ns() + 1_000_000), "the next is late then, and not lost"
    thread._infer = original
    engine.gate.set()
    engine.calls.clear()

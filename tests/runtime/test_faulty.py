"""The engine that fails on schedule."""

import time

import numpy as np
import pytest
from graphs import linear

from trudi.runtime.engines.faulty import FaultyEngine
from trudi.runtime.engines.onnx import OnnxCfg, OnnxEngine
from trudi.runtime.errors import EngineError
from trudi.runtime.robots.injection import Fault

OBSERVATION = np.ones((1, 3), np.float32)


@pytest.fixture
def engine():
    with OnnxEngine(linear(latent=False), OnnxCfg()) as engine:
        yield engine


def test_a_slow_inference_takes_its_core_and_gives_the_same_action(engine):
    """Twice a budget of 50 ms; a sleep would take 0 ms of the processor's time."""
    slow = FaultyEngine(engine, [Fault("inference_slow", 0.0, None, 2.0)], 0.05)
    right = engine.infer(OBSERVATION).copy()
    begin, begin_cpu = time.monotonic(), time.thread_time()
    action = slow.infer(OBSERVATION)
    assert time.monotonic() - begin >= 0.1
    assert time.thread_time() - begin_cpu > 0.02  # less than all of it where other processes want the core
    np.testing.assert_array_equal(action, right)


def test_errors_and_spoilt_actions_last_as_long_as_they_are_asked_for(engine):
    broken = FaultyEngine(engine, [Fault("engine_error", 0.0, 0.05)], 0.015)
    with pytest.raises(EngineError, match="an injected failure"):
        broken.infer(OBSERVATION)
    time.sleep(0.06)
    assert np.isfinite(broken.infer(OBSERVATION)).all()
    assert np.isnan(FaultyEngine(engine, [Fault("action_nan", 0.0)], 0.015).infer(OBSERVATION)).all()

"""How a TensorRT engine is run, against stand-ins for CUDA and TensorRT (see `stand_ins`): no GPU is tested here."""

import importlib
import sys

import numpy as np
import pytest
from stand_ins import CudaRuntime, tensorrt

from trudi.runtime.engines.cuda import Cuda
from trudi.runtime.engines.tensorrt import TensorRTCfg, TensorRTEngine, inspect_plan
from trudi.runtime.errors import EngineError

PLAN = b"plan"


def row(*values):
    return np.array([values], np.float32)


@pytest.fixture
def cuda(monkeypatch):
    made = CudaRuntime()
    monkeypatch.setitem(sys.modules, "cuda.bindings.runtime", made)
    monkeypatch.setitem(sys.modules, "tensorrt", tensorrt(made))
    return made


def engine(**changes):
    return TensorRTEngine(PLAN, TensorRTCfg("tensorrt", **changes))


def test_a_call_is_one_launch_of_the_captured_graph(cuda):
    with engine(precision="fp16") as loaded:
        assert loaded.captured
        launched = cuda.launches
        assert loaded.infer(row(1, 2, 3), row(0.5, -0.5)).tolist() == [[27.0, 23.0]]
        assert loaded.infer(row(0, 0, 1), row(0, 0)).tolist() == [[5.0, 6.0]]
        assert cuda.launches == launched + 2
        assert (loaded.name, loaded.info.provider) == ("tensorrt", "CUDA device 0, compute capability 8.9")
        assert (loaded.info.library.split()[1], loaded.info.precision) == ("10.3.0", "fp16")


def test_without_a_graph_each_call_is_queued(cuda):
    with engine(cuda_graph=False) as loaded:
        assert not loaded.captured
        assert loaded.infer(row(1, 2, 3), row(0.5, -0.5)).tolist() == [[27.0, 23.0]]
        assert cuda.launches == 0


def test_a_context_that_cannot_be_captured_is_queued_instead(cuda, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorrt", tensorrt(cuda, capturable=False))
    with engine() as loaded:
        assert not loaded.captured
        assert loaded.infer(row(1, 2, 3), row(0, 0)).tolist() == [[22.0, 28.0]]


def test_closing_frees_everything_once_and_leaves_the_last_action_readable(cuda):
    loaded = engine()
    action = loaded.infer(row(1, 2, 3), row(0, 0))
    assert {kind for kind, _ in cuda.alive} == {"stream", "host", "device", "graph", "executable"}
    loaded.close()
    loaded.close()
    assert cuda.alive == set()
    assert action.tolist() == [[22.0, 28.0]]
    with pytest.raises(EngineError, match="closed"):
        loaded.infer(row(1, 2, 3), row(0, 0))


def test_a_free_batch_takes_the_shape_asked_and_no_larger_than_built(cuda, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorrt", tensorrt(cuda, batch=-1))
    with engine(batch=2) as loaded:
        observations = np.array([[1, 0, 0], [0, 1, 0]], np.float32)
        assert loaded.infer(observations, np.zeros((2, 2), np.float32)).tolist() == [[1.0, 2.0], [3.0, 4.0]]
    with pytest.raises(EngineError, match=r"not built for observation \(9, 3\)"):
        engine(batch=9)
    assert cuda.alive == set()


def test_a_failure_while_loading_frees_what_was_taken(cuda, monkeypatch):
    with pytest.raises(EngineError, match=r"cannot open the engine: .*Serialization"):
        TensorRTEngine(b"other", TensorRTCfg("tensorrt"))
    monkeypatch.setitem(sys.modules, "tensorrt", tensorrt(cuda, dtype="HALF"))
    with pytest.raises(EngineError, match="observation float16"):
        engine()
    assert cuda.alive == set()


def test_a_gpu_lets_a_plan_be_opened_and_its_contract_checked(cuda):
    report = inspect_plan(PLAN, "tensorrt")
    assert report.signature is not None and report.signature.takes_latent
    assert report.checked == ("the engine opens", "its inputs and outputs keep the contract")
    assert len(report.unchecked) == 1
    with pytest.raises(EngineError, match="refuses the engine"):
        inspect_plan(b"other", "tensorrt")


def test_a_device_that_is_not_there_is_named(cuda):
    with pytest.raises(EngineError, match="no CUDA device 1: this machine has 1"):
        Cuda(1)


def test_a_call_that_cuda_refuses_is_named(cuda):
    made = Cuda()
    with pytest.raises(EngineError, match=r"cudaGraphLaunch failed: cudaErrorInvalidValue \(1\)"):
        made.launch(12345)
    made.close()
    assert cuda.alive == set()


def test_a_capture_that_fails_leaves_no_graph(cuda):
    made = Cuda()

    with pytest.raises(EngineError, match="cudaErrorStreamCaptureUnsupported"):
        made.capture(made.wait)
    made.close()
    assert cuda.alive == set()


def test_the_real_bindings_take_our_arguments():
    """Without a driver each call fails in CUDA, after the bindings have converted what we pass."""
    runtime = importlib.import_module("cuda.bindings.runtime")
    if runtime.cudaGetDeviceCount()[0] == runtime.cudaError_t.cudaSuccess:
        pytest.skip("there is a GPU, which these addresses are not for")
    made = object.__new__(Cuda)
    made._runtime, made.device, made.stream, made._frees = runtime, 10_000, 0, []
    array = row(1, 2)
    calls = [
        made.use_device,
        lambda: made.upload(array, 4096),
        lambda: made.download(4096, array),
        lambda: made.launch(runtime.cudaGraphExec_t()),
        lambda: made._call("cudaGraphInstantiate", runtime.cudaGraph_t(), 0),
        lambda: made._call("cudaGraphDestroy", runtime.cudaGraph_t()),
        lambda: made._call("cudaDeviceGetAttribute", runtime.cudaDeviceAttr.cudaDevAttrComputeCapabilityMajor, 10_000),
        lambda: made.capture(made.wait),
    ]
    for call in calls:
        with pytest.raises(EngineError, match=r"failed: cudaError\w+ \(\d+\)"):
            call()

"""Engines: hand-computed actions, the contract, what a call allocates, the choice by golden self-test, files by key."""

import dataclasses
import gc
import math
import subprocess
import sys
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from graphs import chain, linear, model, ports
from onnx import TensorProto, helper

from trudi.runtime.engines.base import Engine, Port, read_signature
from trudi.runtime.engines.choose import Golden, choose_engine, self_test, standard_loaders
from trudi.runtime.engines.onnx import OnnxCfg, OnnxEngine
from trudi.runtime.engines.tensorrt import TensorRTCfg, TensorRTEngine
from trudi.runtime.errors import EngineError, TrudiRuntimeError

PAGE_BYTES = 4096


def row(*values):
    return np.array([values], np.float32)


def test_the_linear_graph_gives_the_products_computed_by_hand():
    with OnnxEngine(linear()) as engine:
        assert (engine.name, engine.batch, engine.observation_size, engine.action_size, engine.takes_latent) == (
            "onnx",
            1,
            3,
            2,
            True,
        )
        # 1*1 + 2*3 + 3*5 + 10*0.5 = 27; 1*2 + 2*4 + 3*6 + 10*(-0.5) = 23
        assert engine.infer(row(1, 2, 3), row(0.5, -0.5)).tolist() == [[27.0, 23.0]]
        assert engine.infer(row(0, 0, 1), row(0, 0)).tolist() == [[5.0, 6.0]]


def test_without_a_latent_none_is_taken():
    with OnnxEngine(linear(latent=False)) as engine:
        assert engine.infer(row(1, 1, 1)).tolist() == [[9.0, 12.0]]
        with pytest.raises(EngineError, match="the graph has none"):
            engine.infer(row(1, 1, 1), row(0, 0))


def test_the_action_is_the_engines_own_and_the_next_call_overwrites_it():
    with OnnxEngine(linear()) as engine:
        first = engine.infer(row(1, 0, 0), row(0, 0))
        assert first.tolist() == [[1.0, 2.0]]
        assert engine.infer(row(0, 1, 0), row(0, 0)) is first
        assert first.tolist() == [[3.0, 4.0]]


def test_the_caller_may_change_its_arrays_after_a_call():
    with OnnxEngine(linear()) as engine:
        observation = row(1, 2, 3)
        engine.infer(observation, row(0, 0))
        observation[:] = 100.0
        assert engine.infer(row(1, 0, 0), row(0, 0)).tolist() == [[1.0, 2.0]]


@pytest.mark.parametrize(("batch", "asked", "given"), [(4, None, 4), ("batch", None, 1), ("batch", 3, 3), (4, 4, 4)])
def test_the_batch_is_the_graphs_or_the_one_asked(batch, asked, given):
    with OnnxEngine(linear(batch), OnnxCfg(batch=asked)) as engine:
        assert engine.batch == given
        observations = np.arange(3 * given, dtype=np.float32).reshape(given, 3)
        wanted = observations @ np.array([[1, 2], [3, 4], [5, 6]], np.float32)
        assert np.array_equal(engine.infer(observations, np.zeros((given, 2), np.float32)), wanted)


def test_another_batch_than_the_graphs_is_refused():
    with pytest.raises(EngineError, match="batch 2 asked of a graph whose batch is 4"):
        OnnxEngine(linear(4), OnnxCfg(batch=2))


@pytest.mark.parametrize(
    ("observation", "latent", "told"),
    [
        (np.zeros((1, 4), np.float32), row(0, 0), r"observation is float32 \(1, 4\); the engine takes float32 \(1, 3\)"),
        (np.zeros(3, np.float32), row(0, 0), r"observation is float32 \(3,\); the engine takes float32 \(1, 3\)"),
        (np.zeros((1, 3)), row(0, 0), r"observation is float64 \(1, 3\); the engine takes float32"),
        (
            np.zeros((1, 3), np.float32),
            np.zeros((1, 3), np.float32),
            r"latent is float32 \(1, 3\); the engine takes float32 \(1, 2\)",
        ),
        (np.zeros((1, 3), np.float32), None, r"latent missing: the graph takes one, float32 \(1, 2\)"),
    ],
)
def test_arrays_that_do_not_fit_are_refused_by_name(observation, latent, told):
    with OnnxEngine(linear()) as engine:
        engine.infer(row(1, 0, 0), row(0, 0))
        with pytest.raises(EngineError, match=told):
            engine.infer(observation, latent)
        assert engine.infer(row(1, 0, 0), row(0, 0)).tolist() == [[1.0, 2.0]]


def test_a_closed_engine_says_so_and_closes_twice():
    engine = OnnxEngine(linear())
    action = engine.infer(row(1, 2, 3), row(0, 0))
    engine.close()
    engine.close()
    gc.collect()
    assert action.tolist() == [[22.0, 28.0]]
    with pytest.raises(EngineError, match="closed"):
        engine.infer(row(1, 2, 3), row(0, 0))


def identity(inputs, outputs):
    return model([helper.make_node("Identity", [inputs[0].name], [outputs[0].name])], inputs, outputs, [])


def info(name, shape, kind=TensorProto.FLOAT):
    return helper.make_tensor_value_info(name, kind, shape)


@pytest.mark.parametrize(
    ("inputs", "outputs", "told"),
    [
        ([info("obs", [1, 3])], [info("action", [1, 3])], r"inputs \['obs'\]"),
        ([info("observation", [1, 3])], [info("actions", [1, 3])], r"outputs \['actions'\]"),
        ([info("observation", [1, 3]), info("time", [1, 1])], [info("action", [1, 3])], "'time'"),
        ([info("observation", [1, 3], TensorProto.DOUBLE)], [info("action", [1, 3], TensorProto.DOUBLE)], "float64"),
        ([info("observation", [3])], [info("action", [3])], r"observation float32 \(3\)"),
        ([info("observation", [1, "n"])], [info("action", [1, "n"])], "with the size fixed"),
        ([info("observation", [1, 3]), info("latent", [1, 2])], [info("action", [1, 3])], "differs in size"),
        ([info("observation", [1, 3]), info("latent", [2, 3])], [info("action", [1, 3])], "batch sizes differ"),
    ],
)
def test_a_graph_that_breaks_the_contract_is_refused(inputs, outputs, told):
    with pytest.raises(EngineError, match=told):
        OnnxEngine(identity(inputs, outputs))


def test_the_signature_reads_a_graphs_ports():
    free = [Port("latent", (None, 2), "float32"), Port("observation", (None, 3), "float32")]
    signature = read_signature(free, [Port("action", (None, 2), "float32")])
    assert dataclasses.astuple(signature) == (3, 2, True, None)


@pytest.mark.parametrize("junk", [b"", b"junk", linear()[:-40]])
def test_bytes_that_are_no_graph_are_refused_in_a_line(junk):
    with pytest.raises(EngineError, match=r"^ONNX Runtime [0-9.]+ cannot load the graph") as caught:
        OnnxEngine(junk)
    assert "\n" not in str(caught.value)
    assert isinstance(caught.value, TrudiRuntimeError)


@pytest.mark.parametrize(
    ("provider", "named"), [("cuda", "CUDAExecutionProvider"), ("tensorrt", "TensorrtExecutionProvider")]
)
def test_a_provider_that_this_build_lacks_is_refused_not_replaced(provider, named):
    with pytest.raises(EngineError, match=rf"has no {named} \(it has .*CPUExecutionProvider\)"):
        OnnxEngine(linear(), OnnxCfg(provider=provider))


@pytest.mark.parametrize("wrong", [{"provider": "gpu"}, {"graph_optimization": "most"}, {"threads": -1}, {"batch": 0}])
def test_settings_that_cannot_be_are_refused(wrong):
    with pytest.raises(EngineError):
        OnnxCfg(**wrong)


@pytest.mark.parametrize("optimization", ["disabled", "basic", "extended", "all"])
def test_every_graph_optimisation_gives_the_same_actions(optimization, tmp_path):
    random = np.random.default_rng(1)
    observation, latent = random.normal(size=(1, 9)).astype(np.float32), random.normal(size=(1, 4)).astype(np.float32)
    with OnnxEngine(chain(), OnnxCfg(graph_optimization="disabled")) as plain:
        wanted = plain.infer(observation, latent).copy()
    file = tmp_path / "optimised.onnx"
    entries = (("session.disable_prepacking", "1"),)
    cfg = OnnxCfg(
        graph_optimization=optimization, optimized_model=file, session_entries=entries, spin=True, memory_arena=False
    )
    with OnnxEngine(chain(), cfg) as engine:
        assert np.abs(engine.infer(observation, latent) - wanted).max() < 1e-6
        assert np.abs(wanted).max() > 0.01
    assert file.stat().st_size > 0


def resident_bytes():
    return int(Path("/proc/self/statm").read_text().split()[1]) * PAGE_BYTES


def test_a_call_allocates_nothing_that_stays():
    """Python's own allocations by tracemalloc, ONNX Runtime's by the resident set, over 100,000 calls."""
    observation, latent = np.zeros((1, 9), np.float32), np.zeros((1, 4), np.float32)
    with OnnxEngine(chain(steps=1, width=8)) as engine:
        engine.warm_up(20_000)
        gc.collect()
        resident = resident_bytes()
        for _ in range(100_000):
            engine.infer(observation, latent)
        assert resident_bytes() - resident < 2_000_000, "the smallest block of the C allocator, kept by each call, is 3.2 MB"
        tracemalloc.start()
        try:
            engine.infer(observation, latent)
            before = tracemalloc.get_traced_memory()[0]
            for _ in range(2_000):
                engine.infer(observation, latent)
            grown = tracemalloc.get_traced_memory()[0] - before
        finally:
            tracemalloc.stop()
        assert grown < 2_000, "less than a byte a call"


def test_one_thread_means_that_no_other_is_started():
    def started(**cfg):
        before = len(list(Path("/proc/self/task").iterdir()))
        with OnnxEngine(chain(width=64), OnnxCfg(**cfg)) as engine:
            engine.warm_up(3)
            return len(list(Path("/proc/self/task").iterdir())) - before

    assert [started(), started(threads=2), started(threads=2, spin=True)] == [0, 1, 1]


def golden(cases=5, **changes):
    random = np.random.default_rng(2)
    observations, latents = (
        random.normal(size=(cases, 3)).astype(np.float32),
        random.normal(size=(cases, 2)).astype(np.float32),
    )
    actions = observations.astype(np.float64) @ np.array([[1, 2], [3, 4], [5, 6]]) + 10 * latents.astype(np.float64)
    return dataclasses.replace(Golden(observations, latents, actions, 1e-5), **changes)


def test_the_self_test_runs_every_case_in_chunks_of_the_batch():
    for batch in (1, 2, 5, 8):
        with OnnxEngine(linear("batch"), OnnxCfg(batch=batch)) as engine:
            assert self_test(engine, golden()) < 1e-5


def test_one_wrong_element_fails_the_self_test_and_is_named():
    wrong = golden()
    wrong.actions[4, 1] += 2e-5
    with (
        OnnxEngine(linear("batch"), OnnxCfg(batch=2)) as engine,
        pytest.raises(EngineError, match="golden case 4, action 1 is off by"),
    ):
        self_test(engine, wrong)


def test_an_action_that_is_not_a_number_fails_the_self_test():
    inputs, outputs = ports(3, 2, 1)
    nodes = [helper.make_node("Sub", ["latent", "latent"], ["zero"]), helper.make_node("Div", ["zero", "zero"], ["action"])]
    with OnnxEngine(model(nodes, inputs, outputs, [])) as engine, pytest.raises(EngineError, match="off by nan"):
        self_test(engine, golden())


@pytest.mark.parametrize(
    "wrong",
    [
        {"actions": np.zeros((5, 3))},
        {"latents": None},
        {"observations": np.zeros((5, 4), np.float32)},
    ],
)
def test_golden_arrays_of_another_policy_fail_the_self_test(wrong):
    with OnnxEngine(linear()) as engine, pytest.raises(EngineError):
        self_test(engine, golden(**wrong))


@pytest.mark.parametrize(
    "wrong",
    [
        {"actions": np.zeros((0, 2))},
        {"actions": np.full((5, 2), math.nan)},
        {"tolerance": 0.0},
        {"latents": np.zeros((4, 2), np.float32)},
    ],
)
def test_golden_arrays_that_test_nothing_are_refused(wrong):
    with pytest.raises(EngineError, match="golden"):
        golden(**wrong)


def test_the_first_engine_that_loads_and_is_right_is_taken_and_the_others_say_why_not():
    loaders = standard_loaders(linear(), {"tensorrt-rtx": b"no engine"})
    choice = choose_engine(["tensorrt-rtx", "tensorrt", "onnx"], loaders, golden())
    with choice.engine as engine:
        assert engine.name == "onnx"
        assert choice.max_error < 1e-5
    assert [one.name for one in choice.rejected] == ["tensorrt-rtx", "tensorrt"]
    lines = choice.log_lines()
    assert lines[1] == "tensorrt: rejected, there is no file for it"
    assert lines[2].startswith("onnx: taken (onnxruntime ")


def test_an_engine_of_another_policy_is_passed_over_and_closed():
    class Watched(OnnxEngine):
        closed = 0

        def _release(self):
            super()._release()
            Watched.closed += 1

    other = linear(latent=False)
    loaders = {
        "tensorrt-rtx": lambda: Watched(chain()),
        "tensorrt": lambda: Watched(other),
        "onnx": lambda: OnnxEngine(linear()),
    }
    choice = choose_engine(["tensorrt-rtx", "tensorrt", "onnx"], loaders, golden())
    assert Watched.closed == 2
    assert len(choice.rejected) == 2


def test_none_that_passes_is_an_error_with_every_reason():
    def broken() -> Engine:
        raise RuntimeError("library fell over")

    wrong = golden(actions=golden().actions + 1.0)
    loaders = {"tensorrt": broken, "onnx": lambda: OnnxEngine(linear())}
    with pytest.raises(
        EngineError, match=r"tensorrt: RuntimeError: library fell over; onnx: golden case ., action . is off by 1"
    ):
        choose_engine(["tensorrt", "onnx"], loaders, wrong)


def test_a_tolerance_of_its_own_lets_a_coarser_engine_pass():
    coarse = golden(actions=golden().actions + 0.01)
    loaders = {"onnx": lambda: OnnxEngine(linear())}
    with pytest.raises(EngineError):
        choose_engine(["onnx"], loaders, coarse)
    choice = choose_engine(["onnx"], loaders, dataclasses.replace(coarse, tolerance_by_engine={"onnx": 0.02}))
    assert choice.max_error == pytest.approx(0.01, abs=1e-4)


@pytest.mark.parametrize("preference", [[], ["onnx", "openvino"]])
def test_a_preference_that_names_no_engine_is_refused(preference):
    with pytest.raises(EngineError, match="available: onnx, onnx-cuda, onnx-tensorrt, tensorrt, tensorrt-rtx"):
        choose_engine(preference, {}, golden())


def test_the_engines_import_no_library_until_used():
    code = (
        "import sys, trudi.runtime.engines.choose, trudi.runtime.engines.files;"
        "print([name for name in ('torch', 'onnxruntime', 'tensorrt_rtx', 'cuda.bindings') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "[]", done.stderr


@pytest.mark.parametrize(("module", "extra"), [("tensorrt", "tensorrt"), ("tensorrt_rtx", "tensorrt-rtx")])
def test_a_missing_library_is_named_with_what_to_install(monkeypatch, module, extra):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(EngineError, match=rf"pip install 'trudi\[{extra}\]'; the bundle's policy.onnx works without it"):
        TensorRTEngine(b"", TensorRTCfg(extra))


def test_missing_cuda_bindings_are_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "cuda.bindings.runtime", None)
    with pytest.raises(EngineError, match=r"pip install 'trudi\[cuda\]'"):
        TensorRTEngine(b"", TensorRTCfg())

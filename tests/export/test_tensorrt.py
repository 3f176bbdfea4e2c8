"""The real TensorRT-RTX parser and builder, without a GPU: what they take, the key, the lock, and what a crash leaves."""

import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from graphs import chain, linear, model, ports
from onnx import TensorProto, helper, numpy_helper

from trudi.export.files import LOCK_NAME, build_lock, write_durably
from trudi.export.tensorrt import BuildCfg, build_engine, compile_plan, engine_key, read_model
from trudi.runtime.engines.cuda import Cuda
from trudi.runtime.engines.files import read_engine, read_engine_for, read_sidecar, sidecar_path
from trudi.runtime.engines.tensorrt import TensorRTCfg, TensorRTEngine, inspect_plan
from trudi.runtime.errors import EngineError

ROOT = Path(__file__).parents[2]
RTX = BuildCfg()


def capability():
    """The GPU's, or None where there is none."""
    try:
        cuda = Cuda()
    except EngineError:
        return None
    found = cuda.compute_capability()
    cuda.close()
    return found


GPU = capability()
RTX_RUNS_HERE = GPU in {(8, 0), (8, 6), (8, 9), (12, 0), (12, 1)}


def names(folder):
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("gelu", ["erf", "op"])
@pytest.mark.parametrize("precision", ["fp32", "fp16", "bf16"])
def test_the_chain_builds_in_every_precision_with_both_forms_of_gelu(precision, gelu):
    plan = compile_plan(chain(precision, gelu), RTX)
    assert len(plan.data) > 10_000
    assert dataclasses.astuple(plan.signature) == (9, 4, True, 1)
    assert "Engine generation completed" in plan.log


def test_sixteen_bit_weights_take_half_the_bytes():
    sizes = {precision: len(compile_plan(chain(precision, width=512), RTX).data) for precision in ("fp32", "fp16")}
    weights = 512 * 512  # of the middle layer, four bytes each, then two
    assert 1.9 * weights < sizes["fp32"] - sizes["fp16"] < 2.2 * weights


def test_a_chain_with_int8_weights_builds():
    inputs, outputs = ports(3, 2, 1, latent=False)
    weight = numpy_helper.from_array(np.array([[1, 2], [3, 4], [5, 6]], np.int8), "weight")
    scale, zero = numpy_helper.from_array(np.float32(0.1), "scale"), numpy_helper.from_array(np.int8(0), "zero")
    nodes = [helper.make_node("DequantizeLinear", ["weight", "scale", "zero"], ["w"])]
    nodes.append(helper.make_node("MatMul", ["observation", "w"], ["action"]))
    plan = compile_plan(model(nodes, inputs, outputs, [weight, scale, zero]), BuildCfg(precision="int8"))
    assert plan.signature.takes_latent is False


def test_a_free_batch_is_built_up_to_the_largest_asked():
    assert compile_plan(linear("batch"), BuildCfg(max_batch=64)).signature.batch is None


def test_the_same_build_gives_the_same_bytes_and_tf32_gives_others():
    plan = compile_plan(chain(), RTX).data
    assert compile_plan(chain(), RTX).data == plan
    assert compile_plan(chain(), BuildCfg(tf32=True)).data != plan


def test_a_graph_that_mixes_types_is_refused_with_the_parsers_words():
    inputs, outputs = ports(3, 3, 1, latent=False)
    nodes = [helper.make_node("Cast", ["observation"], ["half"], to=TensorProto.FLOAT16)]
    nodes.append(helper.make_node("Add", ["half", "bias"], ["action"], name="mixed"))
    graph = helper.make_graph(nodes, "g", inputs, outputs, [numpy_helper.from_array(np.zeros(3, np.float32), "bias")])
    mixed = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10).SerializeToString()
    with pytest.raises(EngineError, match=r"cannot parse the graph: .*'mixed'.*Invalid Node") as caught:
        compile_plan(mixed, RTX)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("junk", [b"", b"no graph", linear()[:-40]])
def test_bytes_that_are_no_graph_are_refused(junk):
    with pytest.raises(EngineError, match=r"cannot parse the graph|inputs \[\], outputs \[\]"):
        compile_plan(junk, RTX)


def test_a_graph_with_other_ports_is_refused():
    source, action = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 3]) for name in ("obs", "action"))
    renamed = model([helper.make_node("Tanh", ["obs"], ["action"])], [source], [action], [])
    with pytest.raises(EngineError, match=r"inputs \['obs'\].*the contract has observation"):
        compile_plan(renamed, RTX)


def test_targets_are_built_for_and_unknown_ones_listed():
    plans = [
        compile_plan(linear(), BuildCfg(compute_capabilities=targets)).data for targets in ((), ("8.6",), ("8.6", "12.0"))
    ]
    assert len(set(plans)) == 3
    with pytest.raises(EngineError, match=r"unknown compute capabilities \['8.7'\]; tensorrt_rtx builds for 7.5, 8.0, 8.6"):
        compile_plan(linear(), BuildCfg(compute_capabilities=("8.7",)))
    with pytest.raises(EngineError, match=r"cannot build the engine: .*Turing"):
        compile_plan(linear(), BuildCfg(compute_capabilities=("7.5",)))


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({"flavour": "tensor"}, "unknown TensorRT flavour 'tensor'"),
        ({"optimization_level": 4}, "tensorrt-rtx has no optimization_level"),
        ({"timing_cache": Path("cache")}, "tensorrt-rtx has no timing_cache"),
        ({"hardware_compatibility": "ampere_plus"}, "tensorrt-rtx has no hardware_compatibility"),
        ({"flavour": "tensorrt", "compute_capabilities": ("8.6",)}, "tensorrt has no compute_capabilities"),
        ({"flavour": "tensorrt", "optimization_level": 6}, "0 to 5"),
        ({"max_batch": 0}, "at least 1"),
    ],
)
def test_options_that_a_flavour_lacks_are_refused(wrong, told):
    with pytest.raises(EngineError, match=told):
        BuildCfg(**wrong)


def test_every_part_of_the_key_changes_it():
    key = engine_key(linear(), RTX)
    changed = {
        "onnx_sha256": "0" * 64,
        "flavour": "tensorrt",
        "library_version": "1.7.0",
        "cuda": "cu12",
        "compute_capabilities": ("8.6",),
        "precision": "fp16",
        "flags": (("tf32", "True"),),
    }
    assert set(changed) == {part.name for part in dataclasses.fields(key)}
    others = [dataclasses.replace(key, **{name: value}) for name, value in changed.items()]
    assert len({key.digest, *(other.digest for other in others)}) == len(changed) + 1
    assert all(len(other.differences(key)) == 1 for other in others)


@pytest.mark.parametrize(
    "option",
    [{"precision": "fp16"}, {"tf32": True}, {"max_batch": 2}, {"compute_capabilities": ("8.6",)}],
)
def test_every_option_of_the_builder_changes_the_key(option):
    assert engine_key(linear(), BuildCfg(**option)).digest != engine_key(linear(), RTX).digest


def test_one_byte_of_the_graph_changes_the_key_and_the_order_of_targets_does_not():
    assert engine_key(linear(), RTX).digest != engine_key(linear(opset=19), RTX).digest
    there, back = (engine_key(linear(), BuildCfg(compute_capabilities=order)) for order in (("8.6", "8.9"), ("8.9", "8.6")))
    assert there == back


def test_an_engine_is_built_once_and_again_for_another_key(tmp_path):
    file = tmp_path / "policy.onnx"
    file.write_bytes(linear())
    first = build_engine(file, tmp_path / "engines")
    again = build_engine(linear(), tmp_path / "engines")
    other = build_engine(linear(), tmp_path / "engines", BuildCfg(precision="fp16"))
    assert (first.reused, again.reused, other.reused) == (False, True, False)
    assert first.path == again.path != other.path
    stems = [first.path.stem, other.path.stem]
    assert names(tmp_path / "engines") == sorted(stem + end for stem in stems for end in (".engine", ".json", ".log"))
    assert "Engine generation completed" in first.path.with_suffix(".log").read_text()
    sidecar = read_sidecar(first.path)
    assert sidecar["key"]["onnx_sha256"] == first.key.onnx_sha256
    assert sidecar["signature"] == {"observation_size": 3, "action_size": 2, "takes_latent": True, "batch": 1}


def test_an_engine_is_read_by_its_own_key_and_no_other(tmp_path):
    built = build_engine(linear(), tmp_path)
    data = read_engine(built.path, built.key)
    assert data == read_engine_for(built.path, linear()) == built.path.read_bytes()
    with pytest.raises(EngineError, match="precision is fp32, not fp16"):
        read_engine(built.path, dataclasses.replace(built.key, precision="fp16"))
    with pytest.raises(EngineError, match="made from another graph"):
        read_engine_for(built.path, linear(opset=19))


def test_an_engine_of_another_version_is_refused(tmp_path):
    built = build_engine(linear(), tmp_path)
    old = dataclasses.replace(built.key, library_version="1.0.0")
    sidecar = read_sidecar(built.path) | {"key": dataclasses.asdict(old), "digest": old.digest}
    sidecar_path(built.path).write_text(json.dumps(sidecar))
    with pytest.raises(EngineError, match=r"built by tensorrt-rtx 1\.0\.0, installed is"):
        read_engine_for(built.path, linear())
    assert build_engine(linear(), tmp_path).reused is False


def test_a_changed_byte_is_refused_by_the_reader_and_built_again(tmp_path):
    built = build_engine(linear(), tmp_path)
    data = bytearray(built.path.read_bytes())
    data[-200] ^= 1
    built.path.write_bytes(data)
    with pytest.raises(EngineError, match="was changed; build it again"):
        read_engine_for(built.path, linear())
    assert build_engine(linear(), tmp_path).reused is False
    assert read_engine_for(built.path, linear())


@pytest.mark.parametrize(
    "junk", ["", "[]", "null", "{}", '{"key": 3}', '{"key": {"flags": 1}}', "[" * 100_000, "x" * 1_000_001]
)
def test_a_broken_sidecar_is_refused(tmp_path, junk):
    built = build_engine(linear(), tmp_path)
    sidecar_path(built.path).write_text(junk)
    with pytest.raises(EngineError, match=r"build (it|the engine) again"):
        read_engine_for(built.path, linear())
    sidecar_path(built.path).unlink()
    with pytest.raises(EngineError, match="no readable sidecar"):
        read_engine_for(built.path, linear())


def test_a_key_edited_by_hand_does_not_match_its_digest(tmp_path):
    built = build_engine(linear(), tmp_path)
    sidecar = read_sidecar(built.path)
    sidecar["key"]["precision"] = "fp16"
    sidecar_path(built.path).write_text(json.dumps(sidecar))
    with pytest.raises(EngineError, match="digest is not that of its key"):
        read_engine_for(built.path, linear())


def start(folder, code):
    """A process of its own that runs `code` with `folder` and `model` at hand."""
    before = "import sys; from pathlib import Path; from graphs import chain; from trudi.export.tensorrt import *\n"
    paths = os.pathsep.join(str(ROOT / name) for name in ("tests", "train", "export", "runtime"))
    command = [sys.executable, "-c", f"{before}folder = Path(sys.argv[1]); model = chain(width=64)\n{code}", str(folder)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=os.environ | {"PYTHONPATH": paths})


def test_processes_that_want_one_engine_build_it_once(tmp_path):
    processes = [start(tmp_path, "print(build_engine(model, folder).reused)") for _ in range(3)]
    reused = [process.communicate(timeout=120)[0].strip() for process in processes]
    assert sorted(reused) == ["False", "True", "True"]
    assert len(names(tmp_path)) == 3


STALL = """
import trudi.export.tensorrt as builder
real = builder.write_durably
def stall(path, data):
    if path.suffix == ".log":
        path.with_name(f".{path.name}.tmp").write_bytes(data[:10])
        print("stalled", flush=True)
        import time; time.sleep(600)
    real(path, data)
builder.write_durably = stall
build_engine(model, folder)
"""


def test_a_build_killed_between_its_files_leaves_nothing_that_is_used(tmp_path):
    killed = start(tmp_path, STALL)
    assert killed.stdout is not None and killed.stdout.readline().strip() == "stalled"
    waiting = start(tmp_path, "print(build_engine(model, folder).reused)")
    time.sleep(0.2)
    left = next(name for name in names(tmp_path) if name.endswith(".engine"))
    with pytest.raises(EngineError, match="no readable sidecar"):
        read_engine_for(tmp_path / left, chain(width=64))
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    killed.stdout.close()
    assert waiting.communicate(timeout=120)[0].strip() == "False"
    assert [Path(name).suffix for name in names(tmp_path)] == [".engine", ".json", ".log"]


def test_the_lock_leaves_no_file_and_removes_only_its_own_leftovers(tmp_path):
    (tmp_path / ".mine.tmp").touch()
    (tmp_path / ".tensorrt-rtx-0.engine.tmp").touch()
    with build_lock(tmp_path, ".tensorrt*.tmp"):
        assert names(tmp_path) == [LOCK_NAME, ".mine.tmp"]
    assert names(tmp_path) == [".mine.tmp"]


def test_a_file_written_durably_replaces_the_old_one(tmp_path):
    path = tmp_path / "file"
    for data in (b"old and longer", b"new"):
        write_durably(path, data)
    assert path.read_bytes() == b"new"
    assert names(tmp_path) == ["file"]


def test_a_graph_that_is_not_there_is_named(tmp_path):
    with pytest.raises(EngineError, match=r"policy\.onnx cannot be read: No such file"):
        read_model(tmp_path / "policy.onnx")


def test_tensorrt_without_its_library_says_what_to_install_and_what_works(monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    with pytest.raises(EngineError, match=r"pip install 'trudi\[tensorrt\]'; the bundle's policy.onnx works without it"):
        compile_plan(linear(), BuildCfg(flavour="tensorrt"))


@pytest.mark.skipif(GPU is not None, reason="says what is not checked without a GPU")
def test_without_a_gpu_an_engines_header_is_checked_and_the_rest_is_said_not_to_be():
    plan = compile_plan(chain(), RTX).data
    report = inspect_plan(plan, "tensorrt-rtx")
    assert report.checked == ("its header and length",)
    assert report.signature is None
    assert "stops without a GPU" in report.unchecked[0]
    assert report.unchecked[1] == "its inputs and outputs"
    with pytest.raises(EngineError, match=r"cudaGetDeviceCount failed: cudaError.*; check `nvidia-smi` and the driver"):
        TensorRTEngine(plan)


@pytest.mark.parametrize(
    "damage", [lambda plan: b"", lambda plan: b"junk" * 100, lambda plan: plan[:-100], lambda plan: plan + b"x"]
)
def test_a_plan_that_is_cut_or_no_plan_is_refused_even_without_a_gpu(damage):
    with pytest.raises(EngineError, match=r"refuses the engine: .*; build it again"):
        inspect_plan(damage(compile_plan(linear(), RTX).data), "tensorrt-rtx")


@pytest.mark.skipif(not RTX_RUNS_HERE, reason="needs a GPU that TensorRT-RTX runs on")
@pytest.mark.parametrize("cuda_graph", [True, False])
def test_on_a_gpu_the_engine_computes_the_products_computed_by_hand(cuda_graph):
    with TensorRTEngine(compile_plan(linear(), RTX).data, TensorRTCfg(cuda_graph=cuda_graph)) as engine:
        action = engine.infer(np.array([[1, 2, 3]], np.float32), np.array([[0.5, -0.5]], np.float32))
        assert action.tolist() == [[27.0, 23.0]]
        assert engine.captured is cuda_graph

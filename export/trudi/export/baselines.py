"""What an exported graph is measured against: the same policy as a user would run it, and what no graph can beat."""

from __future__ import annotations

import importlib
import logging
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor, nn

from trudi.export.errors import ExportError
from trudi.runtime.bench import Call, Latency
from trudi.runtime.bundle import Bundle
from trudi.runtime.engines.base import ACTION, OBSERVATION
from trudi.runtime.engines.onnx import OnnxCfg, OnnxEngine
from trudi.train.normalizer import RunningNorm
from trudi.train.policy import DenoisingPolicy
from trudi.train.trained import TrainedRun


class Plain(nn.Module):
    """The zero-noise ODE from raw observations to actions, as one would write it: the whole input at every step."""

    def __init__(self, policy: DenoisingPolicy, norm: RunningNorm) -> None:
        super().__init__()
        self.policy, self.norm = policy, norm
        self.steps = policy.cfg.steps

    def forward(self, observation: Tensor) -> Tensor:
        """Actions (batch, m)."""
        policy, score = self.policy, self.policy.score
        seen = torch.clamp(
            (observation - self.norm.mean.float()) * torch.rsqrt(self.norm.variance + self.norm.epsilon).float(),
            -self.norm.clip,
            self.norm.clip,
        )
        sizes = policy.step_sizes()
        x = torch.zeros(observation.shape[0], policy.action_size)
        for k in range(self.steps):
            embedding = score.embedding(self.steps)[k].expand(observation.shape[0], -1)
            h = nn.functional.gelu(score.input(torch.cat([x, seen, embedding], dim=-1)))
            for layer, norm in zip(score.middle, score.norms, strict=True):
                h = nn.functional.gelu(norm(layer(h)))
            x = sizes.decay[k] * x + sizes.eta[k] * score.out(h)
        return torch.tanh(x)


def baseline_calls(run: Path, bundle: Bundle, threads: int) -> dict[str, Call]:
    """Eager PyTorch and the plain export of the run's policy, batch 1, zero noise."""
    trained = TrainedRun.open(run, str(bundle.contract.provenance.iteration))
    return policy_calls(trained.agent.denoising, trained.agent.actor_norm, threads)


def policy_calls(policy: DenoisingPolicy, norm: RunningNorm, threads: int) -> dict[str, Call]:
    """Eager PyTorch (its own sampler, and as one would write it) and `torch.onnx.export` of the latter."""
    torch.set_num_threads(threads or torch.get_num_threads())
    observation = torch.randn(1, policy.observation_size)
    latent = torch.zeros(1, policy.action_size)
    plain = Plain(policy, norm).eval()

    @torch.inference_mode()
    def eager() -> object:
        return policy.sample_ode(norm(observation), latent)[0]

    @torch.inference_mode()
    def eager_plain() -> object:
        return plain(observation)

    engine = OnnxEngine(plain_export(plain), OnnxCfg(threads=threads))
    numbers = observation.numpy()
    return {
        "PyTorch eager, our sampler": eager,
        "PyTorch eager, plain": eager_plain,
        "torch.onnx.export, plain": lambda: engine.infer(numbers),
    }


def plain_export(plain: Plain) -> bytes:
    """`torch.onnx.export` with its defaults: what a user would do."""
    example = torch.zeros(1, plain.policy.observation_size)
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)  # it warns that torchvision, which nobody needs, is missing
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # about PyTorch's own code
        program = torch.onnx.export(
            plain, (example,), input_names=[OBSERVATION], output_names=[ACTION], dynamo=True, verbose=False
        )
    assert program is not None
    return program.model_proto.SerializeToString()


@dataclass(frozen=True)
class Work:
    """What one call must do."""

    flops: int
    """Floating-point operations of the matrix products."""
    weight_bytes: int
    """Bytes of the distinct weights of those products."""
    streamed_bytes: int
    """Bytes of weights that the products read, counting a matrix as often as it is used."""


def products(model: onnx.ModelProto) -> list[NDArray[np.float32]]:
    """The weights of every matrix product of a float32 graph, in order, as often as they are used."""
    weights = {one.name: numpy_helper.to_array(one) for one in model.graph.initializer}
    return [
        weights[node.input[1]]
        for node in model.graph.node
        if node.op_type in ("MatMul", "Gemm") and node.input[1] in weights
    ]


def work(model: onnx.ModelProto) -> Work:
    """Operations and bytes of one call at batch 1."""
    used = products(model)
    names = {node.input[1]: 0 for node in model.graph.node if node.op_type in ("MatMul", "Gemm")}
    distinct = sum(numpy_helper.to_array(one).nbytes for one in model.graph.initializer if one.name in names)
    return Work(sum(2 * one.size for one in used), distinct, sum(one.nbytes for one in used))


def floor_calls(bundle: Bundle, threads: int) -> dict[str, Call]:
    """The matrix products of the bundle's graph and nothing else, by every library present."""
    model = onnx.load_from_string(bundle.read(bundle.contract.graph.file))
    return product_calls(products(model), threads)


def product_calls(weights: list[NDArray[np.float32]], threads: int) -> dict[str, Call]:
    """The products alone, each on a vector of its own size: ONNX Runtime (as one graph), PyTorch and numpy."""
    tensors: dict[int, Tensor] = {id(one): torch.from_numpy(one.copy()) for one in weights}
    torch_pairs = [(torch.randn(1, len(one)), tensors[id(one)], torch.empty(1, one.shape[1])) for one in weights]
    numpy_pairs = [(left.numpy(), right.numpy(), out.numpy()) for left, right, out in torch_pairs]

    @torch.inference_mode()
    def by_torch() -> None:
        for left, right, out in torch_pairs:
            torch.mm(left, right, out=out)

    def by_numpy() -> None:
        for left, right, out in numpy_pairs:
            np.dot(left, right, out=out)

    engine = OnnxEngine(product_chain(weights).SerializeToString(), OnnxCfg(threads=threads))
    observation = np.ones((1, engine.observation_size), np.float32)
    return {
        "products alone, ONNX Runtime": lambda: engine.infer(observation),
        "products alone, PyTorch": by_torch,
        "products alone, numpy": by_numpy,
    }


def product_chain(weights: list[NDArray[np.float32]]) -> onnx.ModelProto:
    """A graph of the products one after the other; where two do not fit, the first is joined by a sum of a scalar."""
    names: dict[int, str] = {}
    constants: list[onnx.TensorProto] = []
    nodes: list[onnx.NodeProto] = []
    held: dict[int, str] = {len(weights[0]): OBSERVATION}
    for index, weight in enumerate(weights):
        if id(weight) not in names:
            names[id(weight)] = f"weight_{index}"
            constants.append(numpy_helper.from_array(weight, names[id(weight)]))
        out = ACTION if index == len(weights) - 1 else f"product_{index}"
        nodes.append(helper.make_node("MatMul", [held[len(weight)], names[id(weight)]], [out]))
        held[weight.shape[1]] = out
    sizes = ((OBSERVATION, len(weights[0])), (ACTION, weights[-1].shape[1]))
    ports = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, size]) for name, size in sizes]
    graph = helper.make_graph(nodes, "products", ports[:1], ports[1:], constants)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


def draw(results: Mapping[str, Latency], floor_us: float | None, title: str, picture: Path) -> None:
    """Median to 99th percentile of every candidate, with the floor as a line."""
    try:
        matplotlib: Any = importlib.import_module("matplotlib")
    except ModuleNotFoundError as error:
        raise ExportError("--picture needs matplotlib: pip install 'trudi[plot]'") from error
    matplotlib.use("Agg")
    pyplot: Any = importlib.import_module("matplotlib.pyplot")
    figure, axes = pyplot.subplots(figsize=(8, 0.45 * len(results) + 1.4), layout="constrained")
    for row, one in enumerate(results.values()):
        axes.barh(row, one.p50_us, color="tab:blue")
        axes.plot([one.p50_us, one.p99_us], [row, row], color="black", marker="|")
    if floor_us is not None:
        axes.axvline(floor_us, color="tab:red", linestyle="--", label="floor: the matrix products alone")
        axes.legend()
    axes.set(xlabel="microseconds per action: median (bar) to 99th percentile (line)", title=title)
    axes.set_yticks(range(len(results)), list(results))
    axes.invert_yaxis()
    figure.savefig(picture, dpi=120)
    pyplot.close(figure)

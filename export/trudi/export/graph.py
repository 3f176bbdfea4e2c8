"""The whole policy as one ONNX graph: observation in, action out, nothing left for the robot to compute.

Six operators a denoising step, all standard ones, and one where the observation's part joins in:

    Gemm    p = z latent_weight_k + (d observation_weight + rest_k)
    Gelu, Gemm, LayerNormalization, Gelu        the trunk
    Gemm    z = h output_weight_k + z

See `trudi.train.export_view` for the symbols. Whatever the precision inside, input and output are float32, and the
observation is centred and the action squashed in float32.
"""

from __future__ import annotations

import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import ml_dtypes
import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from trudi.runtime.engines.base import ACTION, LATENT, OBSERVATION
from trudi.train.export_view import ExportView

Precision = Literal["fp32", "fp16", "bf16", "int8"]

OPSET = 20
"""The first opset with Gelu; LayerNormalization came with 17."""
IR_VERSION = 10
FIRST_LATENT = "first_latent"

_STORAGE: dict[Precision, tuple[Any, int]] = {
    "fp32": (np.float32, TensorProto.FLOAT),
    "fp16": (np.float16, TensorProto.FLOAT16),
    "bf16": (ml_dtypes.bfloat16, TensorProto.BFLOAT16),
    "int8": (np.float32, TensorProto.FLOAT),
}


@dataclass
class _Builder:
    """Collects nodes and constants."""

    precision: Precision
    nodes: list[onnx.NodeProto] = field(default_factory=list[onnx.NodeProto])
    constants: list[onnx.TensorProto] = field(default_factory=list[onnx.TensorProto])

    def constant(self, name: str, value: NDArray[Any], *, wide: bool = False) -> str:
        """A constant in the graph's precision, or in float32 where it is `wide`."""
        kind = np.float32 if wide else _STORAGE[self.precision][0]
        self.constants.append(numpy_helper.from_array(np.ascontiguousarray(value).astype(kind), name))
        return name

    def node(self, op: str, inputs: list[str], output: str, **attributes: Any) -> str:
        self.nodes.append(helper.make_node(op, inputs, [output], name=f"{op}_{output}", **attributes))
        return output

    def narrow(self, tensor: str) -> str:
        """A float32 tensor in the graph's precision."""
        kind = _STORAGE[self.precision][1]
        return tensor if kind == TensorProto.FLOAT else self.node("Cast", [tensor], f"{tensor}_narrow", to=kind)

    def widen(self, tensor: str) -> str:
        """A tensor of the graph's precision in float32."""
        if _STORAGE[self.precision][1] == TensorProto.FLOAT:
            return tensor
        return self.node("Cast", [tensor], f"{tensor}_wide", to=TensorProto.FLOAT)


def build_graph(
    view: ExportView,
    *,
    latent: NDArray[np.float64] | None,
    batch: int | None = 1,
    precision: Precision = "fp32",
) -> onnx.ModelProto:
    """The graph of `view` for `batch` observations at once (None: any number).

    `latent` is the x_0 (m,) that every chain starts from; None makes it the graph's second input (batch, m). `int8` has
    the middle layers' products in 8 bits, with ONNX Runtime's dynamic quantisation: the rest stays float32.
    """
    build = _Builder(precision)
    observation = _observation(build, view)
    if latent is not None and view.steps == 1:
        x = _only_step(build, view, observation, latent)
    else:
        x = _chain(build, view, observation, latent)
    build.node("Tanh", [x], ACTION)

    size: int | str = "batch" if batch is None else batch
    inputs = [_port(OBSERVATION, size, view.observation_size)]
    if latent is None:
        inputs.append(_port(LATENT, size, view.action_size))
    outputs = [_port(ACTION, size, view.action_size)]
    graph = helper.make_graph(build.nodes, "trudi_policy", inputs, outputs, build.constants)
    opset = [helper.make_opsetid("", OPSET)]
    model = helper.make_model(graph, opset_imports=opset, ir_version=IR_VERSION, producer_name="trudi")
    if precision == "int8":
        model = _quantise(model)
    check(model)
    return model


def check(model: onnx.ModelProto) -> None:
    """The checker of ONNX, with shape inference of every tensor in strict mode."""
    onnx.checker.check_model(model, full_check=True)
    onnx.shape_inference.infer_shapes(model, check_type=True, strict_mode=True, data_prop=True)


def _observation(build: _Builder, view: ExportView) -> list[str]:
    """The names of d and of observation_weight, whose product is the same for all steps."""
    bound = view.observation_bound[None]
    d = build.node(
        "Sub", [OBSERVATION, build.constant("observation_mean", view.observation_mean[None], wide=True)], "centred"
    )
    d = build.node("Max", [d, build.constant("observation_low", -bound, wide=True)], "bounded_below")
    d = build.node("Min", [d, build.constant("observation_high", bound, wide=True)], "bounded")
    if _STORAGE[build.precision][1] != TensorProto.FLOAT:  # In raw units a narrow format could overflow or lose digits.
        d = build.narrow(build.node("Div", [d, "observation_high"], "relative"))
        weight = view.observation_weight * view.observation_bound[:, None]
    else:
        weight = view.observation_weight
    return [d, build.constant("observation_weight", weight)]


def _chain(build: _Builder, view: ExportView, observation: list[str], latent: NDArray[np.float64] | None) -> str:
    """All steps; gives the name of x_N, in float32."""
    seen = build.node("MatMul", observation, "observation_part")
    rest = view.rest.copy()
    if latent is None:
        z = build.narrow(LATENT)
    else:  # A constant: its part of the first layer's sum is one too.
        rest[0] += latent @ view.latent_weight[0]
        z = build.constant(FIRST_LATENT, latent[None])
    for k in range(view.steps):
        z = _step(build, view, k, build.node("Add", [seen, build.constant(f"rest_{k}", rest[k][None])], f"shared_{k}"), z)
    factor = build.constant("final_factor", view.final_factor[None], wide=True)
    shift = build.constant("final_shift", view.final_shift[None], wide=True)
    return build.node("Add", [build.node("Mul", [build.widen(z), factor], "scaled"), shift], "last_latent")


def _only_step(build: _Builder, view: ExportView, observation: list[str], latent: NDArray[np.float64]) -> str:
    """One step from a constant latent: what else goes into its sums are constants, so each is one Gemm; gives x_1."""
    first = build.constant("rest_0", view.rest[0] + latent @ view.latent_weight[0])
    h = _trunk(build, view, 0, build.node("Gemm", [*observation, first], "first_0"))
    weight = build.constant("output_weight_0", view.output_weight[0] * view.final_factor)
    shift = build.constant("final_shift", view.final_factor * latent + view.final_shift)
    return build.widen(build.node("Gemm", [h, weight, shift], "last_latent"))


def _step(build: _Builder, view: ExportView, k: int, shared: str, z: str) -> str:
    """One denoising step; gives the name of z_{k+1}."""
    h = shared
    if z != FIRST_LATENT:
        h = build.node("Gemm", [z, build.constant(f"latent_weight_{k}", view.latent_weight[k]), h], f"first_{k}")
    h = _trunk(build, view, k, h)
    return build.node("Gemm", [h, build.constant(f"output_weight_{k}", view.output_weight[k]), z], f"z_{k}")


def _trunk(build: _Builder, view: ExportView, k: int, h: str) -> str:
    """The network between its first layer's sum and its last layer; gives the name of its last activation."""
    h = build.node("Gelu", [h], f"active_{k}")
    for index, layer in enumerate(view.hidden):
        weight, bias, gain, shift = (f"hidden_{index}_{part}" for part in ("weight", "bias", "gain", "shift"))
        if k == 0:
            build.constant(weight, layer.weight)
            build.constant(bias, layer.bias)
            build.constant(gain, layer.gain)
            build.constant(shift, layer.shift)
        if build.precision == "int8":  # The quantiser knows MatMul.
            product = build.node("MatMul", [h, weight], f"hidden_{index}_{k}_product")
            h = build.node("Add", [product, bias], f"hidden_{index}_{k}")
        else:
            h = build.node("Gemm", [h, weight, bias], f"hidden_{index}_{k}")
        h = build.node("LayerNormalization", [h, gain, shift], f"norm_{index}_{k}", axis=-1, epsilon=layer.epsilon)
        h = build.node("Gelu", [h], f"active_{index}_{k}")
    return h


def _quantise(model: onnx.ModelProto) -> onnx.ModelProto:
    """The middle layers' products in 8 bits: weights once, activations at every call, both with one scale a tensor."""
    from onnxruntime.quantization import QuantType, quantize_dynamic

    middle = [node.name for node in model.graph.node if node.output[0].endswith("_product")]
    if not middle:
        return model
    # Without this mark the quantiser warns that its own clean-up did not run; there is nothing here for it to clean.
    helper.set_model_props(model, {"onnx.quant.pre_process": "onnxruntime.quant"})
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "int8.onnx"
        quantize_dynamic(model, path, nodes_to_quantize=middle, weight_type=QuantType.QInt8, per_channel=False)
        quantised = onnx.load(path)
    del quantised.metadata_props[:]
    return quantised


def _port(name: str, batch: int | str, size: int) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, [batch, size])

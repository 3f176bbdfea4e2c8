"""Small ONNX graphs that keep the contract, made by hand: a linear map and a denoising-like chain."""

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

FLOAT_TYPES = {"fp32": TensorProto.FLOAT, "fp16": TensorProto.FLOAT16, "bf16": TensorProto.BFLOAT16}


def ports(observation: int, action: int, batch: int | str, *, latent: bool = True):
    inputs = [helper.make_tensor_value_info("observation", TensorProto.FLOAT, [batch, observation])]
    if latent:
        inputs.append(helper.make_tensor_value_info("latent", TensorProto.FLOAT, [batch, action]))
    return inputs, [helper.make_tensor_value_info("action", TensorProto.FLOAT, [batch, action])]


def model(nodes, inputs, outputs, initializers, opset: int = 20) -> bytes:
    graph = helper.make_graph(nodes, "policy", inputs, outputs, initializers)
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=10)
    onnx.checker.check_model(made, full_check=True)
    return made.SerializeToString()


def linear(batch: int | str = 1, *, latent: bool = True, opset: int = 20) -> bytes:
    """action = observation @ [[1, 2], [3, 4], [5, 6]] (+ 10 latent)."""
    weight = numpy_helper.from_array(np.array([[1, 2], [3, 4], [5, 6]], np.float32), "weight")
    ten = numpy_helper.from_array(np.array(10, np.float32), "ten")
    nodes = [helper.make_node("MatMul", ["observation", "weight"], ["product" if latent else "action"])]
    if latent:
        nodes.append(helper.make_node("Mul", ["latent", "ten"], ["scaled"]))
        nodes.append(helper.make_node("Add", ["product", "scaled"], ["action"]))
    return model(nodes, *ports(3, 2, batch, latent=latent), [weight, ten] if latent else [weight], opset)


class Chain:
    """Writes `steps` steps x += out(gelu(norm(middle(gelu(observation + x + time))))), then tanh, in one precision."""

    def __init__(self, precision: str = "fp32", gelu: str = "erf", *, width: int = 32, steps: int = 3, scale: float = 1.0):
        self.nodes, self.initializers = [], []
        self.type, self.gelu = FLOAT_TYPES[precision], gelu
        random = np.random.default_rng(0)
        sizes = {"observed": (9, width), "acted": (4, width), "middle": (width, width), "out": (width, 4), "bias": (width,)}
        for name, shape in sizes.items():
            self.constant(name, random.normal(size=shape) * scale / shape[0] ** 0.5)
        for name, value in (
            ("weight", np.ones(width)),
            ("shift", np.zeros(width)),
            ("root", 0.5**0.5),
            ("half", 0.5),
            ("one", 1),
        ):
            self.constant(name, value)
        x, observed = self.cast("latent"), self.node("MatMul", self.cast("observation"), "observed")
        for step in range(steps):
            time = self.constant(f"time_{step}", random.normal(size=width))
            hidden = self.activation(self.node("Add", self.node("Add", observed, self.node("MatMul", x, "acted")), time))
            hidden = self.node("Add", self.node("MatMul", hidden, "middle"), "bias")
            hidden = self.activation(self.node("LayerNormalization", hidden, "weight", "shift", axis=-1))
            x = self.node("Add", x, self.node("MatMul", hidden, "out"))
        self.nodes.append(helper.make_node("Cast", [self.node("Tanh", x)], ["action"], to=TensorProto.FLOAT))

    def constant(self, name: str, value) -> str:
        array = np.asarray(value, np.float32)
        self.initializers.append(helper.make_tensor(name, self.type, array.shape, array.ravel().tolist()))
        return name

    def node(self, operator: str, *inputs: str, **attributes) -> str:
        name = f"{operator}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(operator, list(inputs), [name], name=name, **attributes))
        return name

    def cast(self, name: str) -> str:
        return self.node("Cast", name, to=self.type)

    def activation(self, x: str) -> str:
        """Exact GELU, as x (1 + erf(x / sqrt 2)) / 2 or as one operator."""
        if self.gelu == "op":
            return self.node("Gelu", x)
        bent = self.node("Add", self.node("Erf", self.node("Mul", x, "root")), "one")
        return self.node("Mul", self.node("Mul", x, "half"), bent)

    def model(self, batch: int | str = 1, opset: int = 20) -> bytes:
        return model(self.nodes, *ports(9, 4, batch), self.initializers, opset)


def chain(precision: str = "fp32", gelu: str = "erf", *, batch: int | str = 1, opset: int = 20, **sizes) -> bytes:
    return Chain(precision, gelu, **sizes).model(batch, opset)

"""Latency of one action at batch 1 on one thread: our graph and its variants, what a user would do, and the floor.

    python benchmarks/latency.py [--calls 20000]

The policy has random weights: 48 observations, 12 actions, 8 steps of 3 x 512. Writes benchmarks/latency.{json,md,png}.
"""

from __future__ import annotations

import argparse
import json
import logging
from dataclasses import asdict
from pathlib import Path

import numpy as np
import onnx
import torch
from onnx import helper, numpy_helper

from trudi.export.baselines import draw, policy_calls, product_calls, products, work
from trudi.export.graph import build_graph
from trudi.runtime.bench import measure, processor, table
from trudi.runtime.engines.onnx import OnnxCfg, OnnxEngine, import_onnxruntime
from trudi.train.export_view import export_view
from trudi.train.normalizer import RunningNorm
from trudi.train.policy import DenoisingPolicy, PolicyCfg

HERE = Path(__file__).parent
OBSERVATIONS, ACTIONS, STEPS, WIDTH = 48, 12, 8, 512


def random_policy() -> tuple[DenoisingPolicy, RunningNorm]:
    torch.manual_seed(0)
    policy = DenoisingPolicy(PolicyCfg(steps=STEPS, width=WIDTH), OBSERVATIONS, ACTIONS)
    with torch.no_grad():
        policy.score.out.weight.add_(torch.randn_like(policy.score.out.weight) / WIDTH**0.5)
    norm = RunningNorm(OBSERVATIONS)
    norm.update(torch.randn(4096, OBSERVATIONS))
    return policy, norm


def with_written_gelu(model: onnx.ModelProto) -> onnx.ModelProto:
    """The same graph with GELU as x (1 + erf(x / sqrt 2)) / 2 in five operators."""
    model = onnx.ModelProto.FromString(model.SerializeToString())
    for name, value in (("root_half", 2**-0.5), ("one", 1.0), ("half", 0.5)):
        model.graph.initializer.append(numpy_helper.from_array(np.float32(value), name))
    nodes = list(model.graph.node)
    del model.graph.node[:]
    for node in nodes:
        if node.op_type != "Gelu":
            model.graph.node.append(node)
            continue
        (x,), (y,) = node.input, node.output
        parts = [("Mul", [x, "root_half"], "scaled"), ("Erf", ["scaled"], "erf"), ("Add", ["erf", "one"], "plus")]
        parts += [("Mul", [x, "plus"], "product"), ("Mul", ["product", "half"], "")]
        for op, inputs, output in parts:
            named = [one if one in (x, "root_half", "one", "half") else f"{y}_{one}" for one in inputs]
            model.graph.node.append(helper.make_node(op, named, [f"{y}_{output}" if output else y]))
    onnx.checker.check_model(model, full_check=True)
    return model


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--calls", type=int, default=20_000, help="calls of every candidate")
    parser.add_argument("--out", type=Path, default=HERE, help="folder for the result")
    args = parser.parse_args()
    logging.disable(logging.INFO)
    policy, norm = random_policy()
    view = export_view(policy, norm)
    model = build_graph(view, latent=np.zeros(ACTIONS))
    graph = model.SerializeToString()
    observation = np.random.default_rng(0).standard_normal((1, OBSERVATIONS)).astype(np.float32)

    variants = {
        "ours, fp32": OnnxEngine(graph),
        "ours, int8": OnnxEngine(build_graph(view, latent=np.zeros(ACTIONS), precision="int8").SerializeToString()),
        "ours, fp16": OnnxEngine(build_graph(view, latent=np.zeros(ACTIONS), precision="fp16").SerializeToString()),
        "fp32, GELU written out": OnnxEngine(with_written_gelu(model).SerializeToString()),
        "fp32, no fusions": OnnxEngine(graph, OnnxCfg(graph_optimization="disabled")),
        "fp32, no prepacking": OnnxEngine(graph, OnnxCfg(session_entries=(("session.disable_prepacking", "1"),))),
        "fp32, no arena, no pattern": OnnxEngine(graph, OnnxCfg(memory_arena=False, memory_pattern=False)),
    }
    calls = {name: (lambda engine=engine: engine.infer(observation)) for name, engine in variants.items()}
    runtime = import_onnxruntime()
    options = runtime.SessionOptions()
    options.intra_op_num_threads = 1
    session = runtime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
    calls["fp32, session.run, no I/O binding"] = lambda: session.run(None, {"observation": observation})
    floors = product_calls(products(model), threads=1)
    results = measure({**calls, **policy_calls(policy, norm, 1), **floors}, args.calls)

    floor = min(results[name].p50_us for name in floors)
    done = work(model)
    ours, eager = results["ours, fp32"], results["PyTorch eager, our sampler"]
    title = f"8 steps of 3 x 512, 48 observations, 12 actions, batch 1, one thread, {args.calls} calls each"
    lines = [
        "# Latency of one action",
        "",
        f"`python benchmarks/latency.py --calls {args.calls}` on {processor()}. {title}, in turns of 250.",
        f"{done.flops / 1e6:.2f} MFLOP and {done.weight_bytes / 1e6:.2f} MB of distinct weights a call "
        f"({done.streamed_bytes / 1e6:.2f} MB counting every use). The floor is the fastest of the last three rows.",
        "",
        "```",
        table(results, floor),
        "```",
        "",
        f"fp32 is {ours.p50_us / floor:.2f} x the floor, {eager.p50_us / ours.p50_us:.1f} x faster than eager PyTorch "
        f"and {results['torch.onnx.export, plain'].p50_us / ours.p50_us:.2f} x faster than the plain export; "
        f"int8 is {results['ours, int8'].p50_us / floor:.2f} x the fp32 floor.",
    ]
    print("\n".join(lines))
    (args.out / "latency.md").write_text("\n".join(lines) + "\n")
    content = {
        "processor": processor(),
        "floor_us": floor,
        "work": asdict(done),
        "results": [asdict(one) for one in results.values()],
    }
    (args.out / "latency.json").write_text(json.dumps(content, indent=2) + "\n")
    draw(results, floor, title, args.out / "latency.png")


if __name__ == "__main__":
    main()

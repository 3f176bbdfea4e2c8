"""The graph against the policy in PyTorch: same numbers, in every size, step count and noise mode."""

import numpy as np
import onnx
import pytest
import torch

from trudi.export.graph import OPSET, build_graph
from trudi.export.tensorrt import BuildCfg, compile_plan
from trudi.runtime.engines.onnx import OnnxCfg, OnnxEngine
from trudi.train.errors import TrainError
from trudi.train.export_view import export_view
from trudi.train.normalizer import RunningNorm
from trudi.train.policy import DenoisingPolicy, PolicyCfg

OBSERVATIONS, ACTIONS = 48, 12


def policy_and_norm(seed=0, observations=OBSERVATIONS, actions=ACTIONS, **cfg):
    """A policy far from its start, and statistics with means of up to hundreds of standard deviations."""
    torch.manual_seed(seed)
    policy = DenoisingPolicy(PolicyCfg(**cfg), observations, actions)
    with torch.no_grad():
        for parameter in policy.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
        policy.score.out.weight.add_(torch.randn_like(policy.score.out.weight) / policy.cfg.width**0.5)
    norm = RunningNorm(observations)
    mean, std = 3.0 * torch.randn(observations), 0.02 + torch.rand(observations)
    norm.update(mean + std * torch.randn(4096, observations))
    return policy, norm, mean, std


def actions_of(model, observation, latent=None):
    with OnnxEngine(model.SerializeToString(), OnnxCfg(batch=len(observation))) as engine:
        return engine.infer(observation.numpy(), None if latent is None else latent.numpy()).copy()


@pytest.mark.parametrize("steps", [1, 4, 8, 16])
@pytest.mark.parametrize("width", [128, 256])
def test_the_graph_computes_the_policy(steps, width):
    policy, norm, mean, std = policy_and_norm(steps=steps, width=width)
    observation = mean + 3.0 * std * torch.randn(2000, OBSERVATIONS)
    latent = 2.5 * torch.randn(2000, ACTIONS)
    with torch.no_grad():
        expected = policy.sample_ode(norm(observation), latent)[0].numpy()
    model = build_graph(export_view(policy, norm), latent=None, batch=None)
    assert expected.std() > 0.3  # the actions vary, so agreement says something
    assert np.abs(actions_of(model, observation, latent) - expected).max() < 1e-5


@pytest.mark.parametrize("steps", [1, 2, 4])
def test_a_constant_latent_is_the_same_as_an_input(steps):
    policy, norm, mean, std = policy_and_norm(steps=steps, width=32)
    observation, latent = mean + std * torch.randn(8, OBSERVATIONS), 2.5 * torch.randn(1, ACTIONS)
    view = export_view(policy, norm)
    free = build_graph(view, latent=None, batch=8)
    for value in (latent, torch.zeros(1, ACTIONS)):
        fixed = build_graph(view, latent=value.numpy()[0].astype(np.float64), batch=8)
        assert [port.name for port in fixed.graph.input] == ["observation"]
        difference = actions_of(fixed, observation) - actions_of(free, observation, value.expand(8, -1).contiguous())
        assert np.abs(difference).max() < 2e-6


def test_observations_beyond_the_normalisers_clip_are_clipped():
    policy, norm, mean, std = policy_and_norm(steps=2, width=32)
    view = export_view(policy, norm)
    model = build_graph(view, latent=np.zeros(ACTIONS), batch=1)
    for sign in (-1.0, 1.0):
        edge = torch.from_numpy((view.observation_mean + sign * view.observation_bound)[None]).float()
        at, beyond = actions_of(model, edge), actions_of(model, edge + sign * 1e6)
        assert np.abs(at - beyond).max() < 1e-6
    inside = actions_of(model, mean[None] + 5.0 * std)
    assert np.abs(inside - at).max() > 1e-3


@pytest.mark.parametrize("steps", [1, 2, 4, 16, 24])
def test_another_number_of_steps_is_the_policys_own_ode_in_that_many(steps):
    policy, norm, mean, std = policy_and_norm(steps=8, width=32)
    observation = mean + std * torch.randn(50, OBSERVATIONS)
    with torch.no_grad():
        expected = policy.sample_ode(norm(observation), torch.zeros(50, ACTIONS), steps)[0].numpy()
    model = build_graph(export_view(policy, norm, steps), latent=np.zeros(ACTIONS), batch=50)
    assert np.abs(actions_of(model, observation) - expected).max() < 1e-5
    assert sum(node.op_type == "LayerNormalization" for node in model.graph.node) == steps


def test_joined_steps_cover_the_same_time_as_the_policys_own():
    policy, *_ = policy_and_norm(steps=8, width=8)
    with torch.no_grad():
        total = policy.step_sizes().eta.sum(0)
        for steps in (1, 2, 4, 8, 16):
            first, eta = policy.ode_grid(steps)
            torch.testing.assert_close(eta.sum(0), total)
            assert len(first) == len(eta) == steps
        assert policy.ode_grid(2)[0] == [0, 4]
        assert policy.ode_grid(16)[0] == [0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 6, 6, 7, 7]


@pytest.mark.parametrize("steps", [0, -1, 3, 12])
def test_a_number_of_steps_that_does_not_fit_is_refused(steps):
    policy, norm, *_ = policy_and_norm(steps=8, width=8)
    with pytest.raises(TrainError, match="take a divisor or a multiple of 8"):
        export_view(policy, norm, steps)


def test_deep_and_shallow_networks():
    for layers in (2, 4):
        policy, norm, mean, std = policy_and_norm(steps=3, width=32, layers=layers)
        observation = mean + std * torch.randn(20, OBSERVATIONS)
        with torch.no_grad():
            expected = policy.sample_ode(norm(observation), torch.zeros(20, ACTIONS))[0].numpy()
        model = build_graph(export_view(policy, norm), latent=np.zeros(ACTIONS), batch=20)
        assert np.abs(actions_of(model, observation) - expected).max() < 1e-5


def test_one_step_from_a_constant_latent_is_ten_operators():
    policy, norm, _, _ = policy_and_norm(steps=1, width=32)
    model = build_graph(export_view(policy, norm), latent=np.zeros(ACTIONS))
    operators = [node.op_type for node in model.graph.node]
    around = ["Sub", "Max", "Min"], ["Gemm", "Tanh"]
    assert operators == [*around[0], "Gemm", "Gelu", "Gemm", "LayerNormalization", "Gelu", *around[1]]


@pytest.mark.parametrize("steps", [1, 8])
def test_reduced_precisions_are_close_and_smaller(steps):
    policy, norm, mean, std = policy_and_norm(steps=steps, width=256)
    observation = mean + std * torch.randn(500, OBSERVATIONS)
    view = export_view(policy, norm)
    models = {
        kind: build_graph(view, latent=np.zeros(ACTIONS), batch=500, precision=kind) for kind in ("fp32", "fp16", "int8")
    }
    exact = actions_of(models["fp32"], observation)
    errors = {kind: np.abs(actions_of(models[kind], observation) - exact).max() for kind in ("fp16", "int8")}
    assert 1e-6 < errors["fp16"] < 1e-2
    assert 1e-4 < errors["int8"] < 1e-1
    sizes = {kind: len(model.SerializeToString()) for kind, model in models.items()}
    assert sizes["fp16"] < 0.6 * sizes["fp32"]
    assert sizes["int8"] < 0.75 * sizes["fp32"]


def test_only_standard_operators_in_one_file():
    policy, norm, *_ = policy_and_norm(steps=2, width=16)
    for precision in ("fp32", "fp16", "bf16", "int8"):
        model = build_graph(export_view(policy, norm), latent=np.zeros(ACTIONS), precision=precision)
        assert [(one.domain, one.version) for one in model.opset_import] == [("", OPSET)]
        assert {node.domain for node in model.graph.node} == {""}
        assert all(one.data_location == onnx.TensorProto.DEFAULT for one in model.graph.initializer)
        onnx.checker.check_model(model, full_check=True)


def test_the_observation_product_is_computed_once():
    policy, norm, *_ = policy_and_norm(steps=8, width=16)
    model = build_graph(export_view(policy, norm), latent=np.zeros(ACTIONS))
    users = [node.name for node in model.graph.node if "observation_weight" in node.input]
    assert users == ["MatMul_observation_part"]


@pytest.mark.parametrize("precision", ["fp32", "fp16", "bf16"])
def test_tensorrt_rtx_builds_the_chain(precision):
    """The real parser and builder, on the size that the latency benchmark has."""
    policy, norm, *_ = policy_and_norm(steps=8, width=512)
    model = build_graph(export_view(policy, norm), latent=np.zeros(ACTIONS), precision=precision)
    plan = compile_plan(model.SerializeToString(), BuildCfg("tensorrt-rtx", precision))
    assert (plan.signature.observation_size, plan.signature.action_size, plan.signature.batch) == (OBSERVATIONS, ACTIONS, 1)
    weights = sum(tensor.ByteSize() for tensor in model.graph.initializer)
    assert len(plan.data) > 0.9 * weights

"""The student: a policy of the teacher's kind with fewer steps, so that it is evaluated and exported like any other.

The teacher's ODE has N steps of sizes eta_k. A student of n steps, n a divisor of N, has step j = 0 .. n-1 in the place of
the teacher's N/n neighbours from k_j = j N/n on:

    x_{j+1} = x_j + eta'_j ( -x_j / sigma0^2 + u'(x_j, s, j) )          eta'_j = sum of the neighbours' eta_k

Where it starts: u'(x, s, j) = u(x, s, k_j), the teacher's own network. The student then is the teacher's ODE in n steps.

Where it can go: one step, x_1 = x_0 + eta' (-x_0 / sigma0^2 + u'(x_0, s, 0)), is the teacher's whole map x_N(x_0, s) for

    u'(x_0, s, 0) = ( x_N(x_0, s) - x_0 ) / eta' + x_0 / sigma0^2       eta' = eta_0 + ... + eta_{N-1} > 0

whatever that map is: a network that is wide enough comes as close as one likes. From the zero latent it is x_N(0, s) / eta'.

In the policy's own parameters: the teacher's friction; a time increment for each step, dt'_j = sum dt_k c(k) / c'(j), c' the
student's schedule, so that dt'_j c'(j) / friction = eta'_j; Fourier frequencies f N/n, so that j is embedded as k_j is.
"""

from __future__ import annotations

import itertools
from dataclasses import replace

import torch
from torch import Tensor
from torch.nn import functional

from trudi.train.errors import TrainError
from trudi.train.policy import DenoisingPolicy, PolicyCfg, ScoreNetwork


def student_policy(teacher: PolicyCfg, steps: int, width: int | None) -> PolicyCfg:
    """The student's shape; TrainError where it has no fewer steps than the teacher, or units that do not fit its units."""
    n = teacher.steps
    fitting = [str(one) for one in range(1, n) if n % one == 0]
    if steps >= n or steps < 1 or n % steps:
        available = ", ".join(fitting) if fitting else "none"
        raise TrainError(
            f"a student of {steps} step(s) does not fit a teacher of {n}: it takes a divisor of {n} below it; "
            f"available: {available}"
        )
    if width is not None and (width < 1 or (width > teacher.width and width % teacher.width)):
        raise TrainError(
            f"a student of width {width} does not fit a teacher of {teacher.width}: take 1 to {teacher.width}, or a multiple"
        )
    return replace(teacher, steps=steps, width=width or teacher.width, learn_friction=False, learn_dt="per-step")


@torch.no_grad()
def warm_start(student: DenoisingPolicy, teacher: DenoisingPolicy) -> None:
    """Makes `student` the teacher's ODE in its own number of steps (see the module).

    A narrower student gets the teacher's strongest units: a place to learn from, not the same policy. A wider one gets each
    of them several times, with what follows split between them at random (Net2Net, arXiv 1511.05641): the same policy, and
    copies that learn different things.
    """
    joined = teacher.cfg.steps // student.cfg.steps
    dt = functional.softplus(teacher.raw_dt.double()) * teacher.schedule  # (N,)
    student.raw_dt.copy_(_inverse_softplus(dt.view(-1, joined).sum(1) / student.schedule))
    student.raw_friction.copy_(teacher.raw_friction)
    mine, theirs = student.score.embedding, teacher.score.embedding
    mine.load_state_dict(theirs.state_dict())
    mine.frequency.copy_(theirs.frequency * joined)
    _copy_units(student.score, teacher.score)


def freeze_steps(student: DenoisingPolicy) -> None:
    """Holds the step sizes: the network can make up for any, and they are where the start puts them."""
    student.raw_dt.requires_grad_(False)
    student.raw_friction.requires_grad_(False)


def _inverse_softplus(value: Tensor) -> Tensor:
    return value + torch.log(-torch.expm1(-value))


def _units(layer: torch.nn.Module, following: torch.nn.Module, width: int) -> Tensor:
    """Which of a layer's units the student has: all of them several times, or those with the largest weights in and out."""
    strength = _weight(layer).norm(dim=1) * _weight(following).norm(dim=0)
    if width > len(strength):
        return torch.arange(len(strength), device=strength.device).repeat(width // len(strength))
    return torch.sort(strength.topk(width).indices).values


def _inputs(weight: Tensor, units: Tensor, generator: torch.Generator) -> Tensor:
    """A layer's weights on the student's units: copies of one unit share its weight at random, each row in its own way."""
    copies = len(units) // weight.shape[1]
    taken = weight[:, units]
    if copies < 2:
        return taken
    noise = torch.rand((len(weight), copies, weight.shape[1]), generator=generator, dtype=weight.dtype).to(weight.device)
    return taken * (1.0 / copies + noise - noise.mean(1, keepdim=True)).flatten(1)


def _copy_units(student: ScoreNetwork, teacher: ScoreNetwork) -> None:
    """Copies the layers, with as many units as the student has."""
    width, generator = len(student.input.bias), torch.Generator().manual_seed(0)
    layers = [teacher.input, *teacher.middle, teacher.out]
    kept = [_units(layer, following, width) for layer, following in itertools.pairwise(layers)]
    student.input.weight.copy_(teacher.input.weight[kept[0]])
    student.input.bias.copy_(teacher.input.bias[kept[0]])
    for index, (mine, theirs) in enumerate(zip(student.middle, teacher.middle, strict=True)):
        units_in, units_out = kept[index], kept[index + 1]
        _weight(mine).copy_(_inputs(_weight(theirs)[units_out], units_in, generator))
        _bias(mine).copy_(_bias(theirs)[units_out])
        _weight(student.norms[index]).copy_(_weight(teacher.norms[index])[units_out])
        _bias(student.norms[index]).copy_(_bias(teacher.norms[index])[units_out])
    student.out.weight.copy_(_inputs(teacher.out.weight, kept[-1], generator))
    student.out.bias.copy_(teacher.out.bias)


def _weight(layer: torch.nn.Module) -> Tensor:
    assert isinstance(layer.weight, Tensor)
    return layer.weight


def _bias(layer: torch.nn.Module) -> Tensor:
    assert isinstance(layer.bias, Tensor)
    return layer.bias

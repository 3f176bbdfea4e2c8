"""What the student minimises."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from trudi.train.critic import Critic

HUBER_DELTA = 1.0


def regression(own: Tensor, label: Tensor, latent_weight: float) -> Tensor:
    """The distance to the teacher's x_N, after tanh and before it (batch,); `own` and `label` are (batch, actions).

        L(s) = mean_i [ (tanh x_i - tanh y_i)^2 + w huber(x_i - y_i) ]

    After tanh counts what the robot does. Before it, the gradient lives on where tanh is flat; Huber's, linear beyond 1,
    keeps latents far out, where tanh hides any difference, from outweighing the others.
    """
    action = (torch.tanh(own) - torch.tanh(label)).square().mean(-1)
    latent = functional.huber_loss(own, label, reduction="none", delta=HUBER_DELTA).mean(-1)
    return action + latent_weight * latent


def uphill(own: Tensor, label: Tensor, observation: Tensor, critic: Critic, region: float, latent_weight: float) -> Tensor:
    """Uphill on the teacher's critic inside a trust region around the teacher's action (batch,).

        D(s) = mean_i (a_i - b_i)^2      a = tanh x the student's action, b = tanh y the teacher's, d their elements
        L(s) = D(s) - 2 r / (d g) a . grad_a Q(s, a)      where D(s) < (2 r)^2     r the region, g the root mean square
               the regression                             elsewhere                of all the batch's grad_a Q

    The gradient of -Q, scaled: where the critic's slope is a typical one, D and Q are in balance at a distance of r, so the
    student moves by about r, whatever the critic's units are, and nowhere by more than 2 r. Without a slope it stays.
    """
    action, wanted = torch.tanh(own), torch.tanh(label)
    distance = (action - wanted).square().mean(-1)
    with torch.enable_grad():
        leaf = action.detach().requires_grad_()
        (slope,) = torch.autograd.grad(critic(observation, leaf).sum(), leaf)
    typical = slope.square().mean().sqrt().clamp_min(1e-12)
    gain = 2.0 * region / (action.shape[-1] * typical) * (action * slope).sum(-1)
    return torch.where(distance < (2.0 * region) ** 2, distance - gain, regression(own, label, latent_weight))

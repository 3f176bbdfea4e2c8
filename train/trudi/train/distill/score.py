"""Distribution matching: a student whose actions are spread as the teacher's are, latent by latent or not.

Noising an action backwards with the prior's reverse kernel gives the densities p_N = pi, p_{N-1}, ..., p_0 (k = N-1 .. 0):

    x_k = d_k x_{k+1} + sqrt(2 eta_k) eps          d_k = 1 - eta_k / sigma0^2

A policy that denoises it step by step has learned E[x_{k+1} | x_k] as its mean mu_k, and by Tweedie's formula the score:

    d_k E[x_{k+1} | x_k] = x_k + 2 eta_k grad log p_k(x_k)

The teacher's mean stands for its own score; an auxiliary policy of the same kind learns the means of the student's noised
actions by regression, and so the student's score. The gradient of the student's reverse KL to the teacher at noise level k,
E[ (grad log p_student - grad log p_teacher)(x_k) . dx_k / dtheta ], is then along mu_aux - mu_teacher; levels are weighed so
that each counts in units of its own noise (as Diff-Instruct, arXiv 2305.18455, and OneDP, arXiv 2410.21257, do for others):

    dL / dx_N = mean_k (mu_aux - mu_teacher)(x_k) / sqrt(2 eta_k)
"""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from trudi.train.agent import OptimCfg
from trudi.train.policy import DenoisingPolicy

PREFIX = "auxiliary."
MOMENT = "auxiliary_optim."


class ScoreMatcher:
    """The auxiliary policy and what it says about the student's actions.

    It must know where the student is: its rate does not fall, it learns several times for each of the student's steps, and
    the student's are small. Once each with equal rates, the student ran ahead and swung around the teacher's mean.
    """

    def __init__(self, teacher: DenoisingPolicy, cfg: OptimCfg) -> None:
        self._teacher, self._cfg = teacher, cfg
        self.auxiliary = copy.deepcopy(teacher).requires_grad_(False)
        self.auxiliary.score.requires_grad_(True)
        self._parameters = list(self.auxiliary.score.parameters())
        self._optimizer = torch.optim.Adam(self._parameters, lr=cfg.learning_rate, fused=True)

    def learn(self, observation: Tensor, states: Tensor) -> Tensor:
        """One gradient step on the student's noised actions x_0 .. x_N (N + 1, batch, actions); returns the loss ()."""
        std = self._teacher.step_sizes().std.detach()[:, None]
        error = (states[1:] - self.auxiliary.step_means(observation, states[:-1])) / std
        loss = error.square().mean()
        self._optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(self._parameters, self._cfg.max_grad_norm)
        self._optimizer.step()
        return loss.detach()

    @torch.no_grad()
    def direction(self, observation: Tensor, states: Tensor) -> Tensor:
        """dL / dx_N of each sample (batch, actions): where the student has too much of what the teacher has less of."""
        std = self._teacher.step_sizes().std[:, None]
        theirs, own = (policy.step_means(observation, states[:-1]) for policy in (self._teacher, self.auxiliary))
        return ((own - theirs) / std).mean(0)

    def tensors(self) -> dict[str, Tensor]:
        """As a checkpoint holds them."""
        found = {PREFIX + key: value.detach().clone() for key, value in self.auxiliary.state_dict().items()}
        for index, moments in self._optimizer.state_dict()["state"].items():
            found |= {f"{MOMENT}{index}.{key}": value.detach().clone() for key, value in moments.items()}
        return found

    def restore(self, tensors: dict[str, Tensor]) -> None:
        """Puts `tensors` back."""
        self.auxiliary.load_state_dict(
            {key.removeprefix(PREFIX): value for key, value in tensors.items() if key.startswith(PREFIX)}
        )
        moments: dict[int, dict[str, Tensor]] = {}
        for key, value in tensors.items():
            if key.startswith(MOMENT):
                index, moment = key.removeprefix(MOMENT).split(".")
                moments.setdefault(int(index), {})[moment] = value.clone()
        whole = self._optimizer.state_dict()
        whole["state"] = moments
        self._optimizer.load_state_dict(whole)


@torch.no_grad()
def noised(policy: DenoisingPolicy, last: Tensor, generator: torch.Generator) -> Tensor:
    """x_0 .. x_N (N + 1, batch, actions) from x_N = `last`, by the prior's reverse kernel in the policy's step sizes."""
    sizes = policy.step_sizes()
    shape = (policy.cfg.steps, *last.shape)
    noise = torch.randn(shape, generator=generator, device=last.device, dtype=last.dtype)
    states = [last]
    for k in reversed(range(policy.cfg.steps)):
        states.append(sizes.decay[k] * states[-1] + sizes.std[k] * noise[k])
    return torch.stack(states[::-1])

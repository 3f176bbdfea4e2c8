"""PPO's settings. They name rsl_rl's own; what is not here stands in `TrainCfg`: gamma, lam, environments, rollout, seed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from trudi.train.errors import TrainError

Activation = Literal["elu", "selu", "relu", "lrelu", "tanh", "sigmoid", "softplus", "gelu", "swish", "mish"]


@dataclass(frozen=True)
class PpoCfg:
    """rsl_rl's PPO (`--algo ppo`). The defaults are for DeepMind control tasks on a CPU (docs/baselines.md)."""

    hidden: tuple[int, ...] = (128, 128)
    """Widths of the hidden layers, actor and critic each."""
    activation: Activation = "tanh"
    """Between them."""
    orthogonal: bool = True
    """Whether weights start as orthogonal matrices, the actor's last ones a hundredth of that: its mean actions are then 0
    everywhere. Otherwise as torch draws them, which is what rsl_rl's own runner does."""
    rollout_steps: int = 32
    """Steps of every environment from one update to the next: an iteration's `rollout_steps` hold several such rounds, or a
    shorter one."""
    learning_rate: float = 5e-4
    """Adam's step size; at the start, where the schedule changes it."""
    schedule: Literal["linear", "fixed", "adaptive"] = "linear"
    """`linear` lets the step size fall to 0 over the run. `adaptive`, which rsl_rl's users have, divides it by 1.5 at a
    minibatch whose KL is beyond twice `desired_kl`, and multiplies it by 1.5 below half of it."""
    desired_kl: float = 0.01
    """KL divergence of the old policy from the new one that the adaptive schedule aims at, in nats."""
    epochs: int = 10
    """Passes over the samples."""
    mini_batches: int = 8
    """Minibatches that the samples of an update are cut into."""
    clip: float = 0.2
    """The probability ratio is clipped to 1 -+ this."""
    entropy_coef: float = 0.002
    """Weight of the entropy in the loss."""
    value_loss_coef: float = 1.0
    """Weight of the value loss."""
    clip_value_loss: bool = False
    """Whether values may move by `clip` in an iteration and no further: only for returns of about 1."""
    max_grad_norm: float = 1.0
    """Gradients are scaled down to this norm, for actor and critic each."""
    init_std: float = 1.0
    """Standard deviation of the actions at the start; it is learned, one for each action, the same in all states."""
    normalize: bool = True
    """Whether observations are normalised by running statistics."""

    def __post_init__(self) -> None:
        if not self.hidden or min(self.hidden) < 1:
            raise TrainError(f"ppo.hidden is {list(self.hidden)}; give the width of one layer at least")
        for name in ("epochs", "mini_batches", "rollout_steps"):
            if getattr(self, name) < 1:
                raise TrainError(f"ppo.{name} is {getattr(self, name)}; it must be at least 1")
        for name in ("learning_rate", "desired_kl", "clip", "max_grad_norm", "init_std"):
            if not getattr(self, name) > 0.0:
                raise TrainError(f"ppo.{name} is {getattr(self, name)}; it must be positive")
        for name in ("entropy_coef", "value_loss_coef"):
            if not getattr(self, name) >= 0.0:
                raise TrainError(f"ppo.{name} is {getattr(self, name)}; it may not be negative")

    def round_of(self, steps: int) -> int:
        """Steps of a round, in iterations of so many."""
        return min(self.rollout_steps, steps)

    def check(self, envs: int, steps: int, sampler: str) -> None:
        """TrainError where iterations of so many environments' steps, or evaluations by this sampler, cannot be had."""
        part = self.round_of(steps)
        if steps % part:
            raise TrainError(
                f"rollout_steps is {steps}, not a multiple of ppo.rollout_steps, {part}: change one, or give both the same"
            )
        if self.mini_batches > envs * part:
            raise TrainError(f"ppo.mini_batches is {self.mini_batches}, more than the {envs * part} samples of an update")
        if sampler == "best":
            raise TrainError(
                "evaluation.sampler is best, but --algo ppo has no value of actions to choose by: use ode or sde"
            )

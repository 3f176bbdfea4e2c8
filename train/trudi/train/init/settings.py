"""Settings of a start from a given policy."""

from __future__ import annotations

from dataclasses import dataclass

from trudi.train.errors import TrainError


@dataclass(frozen=True)
class InitCfg:
    """Where training starts from: a policy that exists, or nothing."""

    policy: str | None = None
    """A policy to start from, `--init-from` for short: a run folder of the same task, or an ONNX file with one input and one
    output, as rsl_rl, mjlab and Isaac Lab export it."""
    checkpoint: str = "last"
    """Of a run folder: `last`, `best` or an iteration's number."""
    std: float | None = None
    """Standard deviation, before tanh, of the noise around the given policy's actions: the clone explores with as much. By
    default a Gaussian run's own, and 0.3 for other policies."""
    iterations: int = 20
    """Iterations of cloning. Each visits `num_envs` x `rollout_steps` states; the clone drives a growing share of the
    environments, in the last one all."""
    updates: int = 100
    """Gradient steps of each, on minibatches of `update.minibatch_size` from all states visited so far."""
    learning_rate: float = 2e-3
    """Adam's step size for cloning, falling linearly to a tenth."""
    critic_iterations: int = 40
    """Iterations after the cloning in which the critic learns alone, with the policy held. A critic that knows little pulls
    the clone apart, and what another action does is the last thing that it learns. A `trust_region.bound` of 0.01 goes with
    it (docs/training.md)."""

    def __post_init__(self) -> None:
        for name in ("iterations", "updates"):
            if getattr(self, name) < 1:
                raise TrainError(f"init.{name} is {getattr(self, name)}; it must be at least 1")
        if self.critic_iterations < 0:
            raise TrainError(f"init.critic_iterations is {self.critic_iterations}; it may not be negative")
        if not self.learning_rate > 0.0:
            raise TrainError(f"init.learning_rate is {self.learning_rate}; it must be positive")
        if self.std is not None and not self.std > 0.0:
            raise TrainError(f"init.std is {self.std}; it must be positive")
        if self.policy == "":
            raise TrainError("init.policy is empty: name a run folder or an ONNX file")

    def given_share(self, iteration: int) -> float:
        """Share of the environments that the given policy drives in an iteration of cloning: from 1 down to 0."""
        return 1.0 - iteration / max(1, self.iterations - 1)

    def rate(self, iteration: int) -> float:
        """Adam's step size in an iteration of cloning."""
        return self.learning_rate * (1.0 - 0.9 * iteration / self.iterations)

"""A simulator whose best policy is known in closed form."""

import torch

from trudi.train.envs.base import EpisodeTracker, Observation, Stateless, StepResult


class Chase(Stateless):
    """x' = x + a / 2 + wind, reward -5 x'^2: with wind -0.2 the best action is 0.4 - 2 x, where that is within (-1, 1).

    Episodes are truncated after 4 steps, so that many states are fresh starts, or terminated where |x'| > 3; with `blind` no
    terminal observation is given.
    """

    task, action_size, actor_size, critic_size = "test:chase", 1, 1, 1
    control_period_s, max_episode_steps = 0.02, 4
    device = torch.device("cpu")

    def __init__(self, num_envs=64, blind=False):
        self.num_envs, self.blind = num_envs, blind
        self.generator = torch.Generator().manual_seed(0)
        self.tracker = EpisodeTracker(num_envs, self.device)
        self.steps = torch.arange(num_envs) % self.max_episode_steps  # staggered

    def start(self, count):
        return 0.8 * torch.rand(count, 1, generator=self.generator) - 0.3

    def reset(self):
        self.x = self.start(self.num_envs)
        return Observation(self.x, self.x)

    def step(self, action):
        x = self.x + action / 2 - 0.2
        reward = -5.0 * x.squeeze(-1).square()
        self.steps = self.steps + 1
        terminated = x.squeeze(-1).abs() > 3
        truncated = (self.steps >= self.max_episode_steps) & ~terminated
        ended = terminated | truncated
        terminal = None if self.blind else Observation(x[ended], x[ended])
        self.x = torch.where(ended[:, None], self.start(self.num_envs), x)
        self.steps = torch.where(ended, 0, self.steps)
        stats = self.tracker.step(reward, ended, torch.ones_like(ended))
        return StepResult(Observation(self.x, self.x), reward, terminated, truncated, terminal, stats)

    def close(self):
        pass

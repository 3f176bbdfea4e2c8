"""PPO as rsl_rl has it, on this package's simulators and in its runs: the baseline `--algo ppo` (docs/baselines.md)."""

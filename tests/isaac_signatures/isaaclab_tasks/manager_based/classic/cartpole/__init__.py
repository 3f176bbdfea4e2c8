"""Balance a pole on a cart."""

import gymnasium as gym

gym.register(
    id="Isaac-Cartpole-v0",
    entry_point="isaaclab.envs:ManagerBasedRLEnv",
    disable_env_checker=True,
    kwargs={"env_cfg_entry_point": f"{__name__}.cartpole_env_cfg:CartpoleEnvCfg"},
)

gym.register(
    id="Isaac-Cartpole-FinalObs",  # no version, as Isaac Lab 3.0 names tasks; gymnasium refuses both for one name
    entry_point="isaaclab.envs:ManagerBasedRLEnv",
    disable_env_checker=True,
    kwargs={"env_cfg_entry_point": f"{__name__}.cartpole_env_cfg:CartpoleEnvCfgV3"},
)

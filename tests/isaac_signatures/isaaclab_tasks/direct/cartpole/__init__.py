"""Balance a pole on a cart, as one class."""

import gymnasium as gym

gym.register(
    id="Isaac-Cartpole-Direct-v0",
    entry_point=f"{__name__}.cartpole_env:CartpoleEnv",
    disable_env_checker=True,
    kwargs={"env_cfg_entry_point": f"{__name__}.cartpole_env:CartpoleEnvCfg"},
)
gym.register(
    id="Isaac-Cartpole-FinalObs-Direct",  # no version, as Isaac Lab 3.0 names tasks; gymnasium refuses both for one name
    entry_point=f"{__name__}.cartpole_env:CartpoleEnv",
    disable_env_checker=True,
    kwargs={"env_cfg_entry_point": f"{__name__}.cartpole_env:CartpoleEnvCfgV3"},
)
gym.register(
    id="Isaac-Cartpole-Noisy-Direct-v0",  # of this simulator only: noise on both sides, and a critic's own observations
    entry_point=f"{__name__}.cartpole_env:CartpoleEnv",
    disable_env_checker=True,
    kwargs={"env_cfg_entry_point": f"{__name__}.cartpole_env:NoisyCartpoleEnvCfg"},
)

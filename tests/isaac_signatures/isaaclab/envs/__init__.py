"""Environments."""

from isaaclab._kit import require

require()

from . import mdp  # noqa: E402 - Kit comes first
from .common import VecEnvObs, VecEnvStepReturn, ViewerCfg  # noqa: E402
from .direct_marl_env import DirectMARLEnv, DirectMARLEnvCfg  # noqa: E402
from .direct_rl_env import DirectRLEnv  # noqa: E402
from .direct_rl_env_cfg import DirectRLEnvCfg  # noqa: E402
from .manager_based_env import ManagerBasedEnv  # noqa: E402
from .manager_based_env_cfg import ManagerBasedEnvCfg  # noqa: E402
from .manager_based_rl_env import ManagerBasedRLEnv  # noqa: E402
from .manager_based_rl_env_cfg import ManagerBasedRLEnvCfg  # noqa: E402

__all__ = [
    "DirectMARLEnv",
    "DirectMARLEnvCfg",
    "DirectRLEnv",
    "DirectRLEnvCfg",
    "ManagerBasedEnv",
    "ManagerBasedEnvCfg",
    "ManagerBasedRLEnv",
    "ManagerBasedRLEnvCfg",
    "VecEnvObs",
    "VecEnvStepReturn",
    "ViewerCfg",
    "mdp",
]

"""A made-up robot that follows a velocity. Only in this simulator."""

import gymnasium as gym

_TASKS = {
    "Isaac-Velocity-Flat-TestBot-v0": "TestBotFlatEnvCfg",
    "Isaac-Velocity-Flat-TestBot-Play-v0": "TestBotFlatEnvCfg_PLAY",
    "Isaac-Velocity-Flat-TestBot-History-v0": "TestBotHistoryEnvCfg",
    "Isaac-Velocity-Flat-TestBot-Stateful-v0": "TestBotStatefulEnvCfg",
    "Isaac-Velocity-Flat-TestBot-Dict-v0": "TestBotDictEnvCfg",
    "Isaac-Velocity-Flat-TestBot-FinalObs": "TestBotFinalObsEnvCfg",
}

for _task, _cfg in _TASKS.items():
    gym.register(
        id=_task,
        entry_point="isaaclab.envs:ManagerBasedRLEnv",
        disable_env_checker=True,
        kwargs={"env_cfg_entry_point": f"{__name__}.flat_env_cfg:{_cfg}"},
    )

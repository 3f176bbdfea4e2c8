"""An environment of managers, without a task."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import yaml

from isaaclab.managers import ActionManager, EventManager, ObservationManager, RecorderManager
from isaaclab.managers.manager_base import EnvIds
from isaaclab.scene import InteractiveScene
from isaaclab.sim import SimulationContext
from isaaclab.utils.seed import configure_seed

from .common import VecEnvObs
from .manager_based_env_cfg import ManagerBasedEnvCfg
from .utils.io_descriptors import export_articulations_data, export_scene_data


class ManagerBasedEnv:
    """Creates the simulation, the scene and, once it plays, the managers."""

    def __init__(self, cfg: ManagerBasedEnvCfg) -> None:
        cfg.validate()  # type: ignore[attr-defined] - configclass adds it
        self.cfg = cfg
        self._is_closed = False
        if self.cfg.seed is not None:
            self.cfg.seed = self.seed(self.cfg.seed)
        if SimulationContext.instance() is not None:
            raise RuntimeError("Simulation context already exists. Cannot create a new one.")
        self.sim = SimulationContext(self.cfg.sim)
        print("[INFO]: Base environment:")
        print(f"\tEnvironment device    : {self.device}")
        print(f"\tEnvironment step-size : {self.step_dt}")
        self._sim_step_counter = 0
        self.extras: dict[str, Any] = {}
        self.scene = InteractiveScene(self.cfg.scene)
        self.event_manager = EventManager(self.cfg.events, self)
        if "prestartup" in self.event_manager.available_modes:
            self.event_manager.apply(mode="prestartup")
        self.sim.reset()
        self.scene.update(dt=self.physics_dt)
        self.load_managers()
        self.obs_buf: VecEnvObs = {}
        if self.cfg.export_io_descriptors:
            self.export_IO_descriptors()

    def __del__(self) -> None:
        self.close()

    @property
    def num_envs(self) -> int:
        return self.scene.num_envs

    @property
    def physics_dt(self) -> float:
        return self.cfg.sim.dt

    @property
    def step_dt(self) -> float:
        return self.cfg.sim.dt * self.cfg.decimation

    @property
    def device(self) -> str:
        return self.sim.device

    @property
    def get_IO_descriptors(self) -> dict[str, Any]:
        """A property despite its name."""
        return {
            "observations": self.observation_manager.get_IO_descriptors,
            "actions": self.action_manager.get_IO_descriptors,
            "articulations": export_articulations_data(self),
            "scene": export_scene_data(self),
        }

    def export_IO_descriptors(self, output_dir: str | None = None) -> None:
        """Writes the YAML file; fails where a descriptor holds a tensor, as the real one does."""
        descriptors = self.get_IO_descriptors
        if output_dir is None:
            if self.cfg.log_dir is None:
                raise ValueError("neither output_dir nor the configuration's log_dir is set")
            output_dir = str(Path(self.cfg.log_dir) / "io_descriptors")
        folder = Path(output_dir)
        folder.mkdir(parents=True, exist_ok=True)
        with (folder / "IO_descriptors.yaml").open("w") as file:
            yaml.safe_dump(descriptors, file)

    def load_managers(self) -> None:
        self.recorder_manager = RecorderManager(self.cfg.recorders, self)
        self.action_manager = ActionManager(self.cfg.actions, self)
        print("[INFO] Action Manager: ", self.action_manager.active_terms)
        self.observation_manager = ObservationManager(self.cfg.observations, self)
        print("[INFO] Observation Manager:", self.observation_manager.active_terms)

    def reset(
        self, seed: int | None = None, env_ids: EnvIds = None, options: dict[str, Any] | None = None
    ) -> tuple[VecEnvObs, dict[str, Any]]:
        if env_ids is None:
            env_ids = torch.arange(self.num_envs, dtype=torch.int64, device=self.device)
        self.recorder_manager.record_pre_reset(env_ids)
        if seed is not None:
            self.seed(seed)
        self._reset_idx(env_ids)
        self.scene.write_data_to_sim()
        self.sim.forward()
        self.recorder_manager.record_post_reset(env_ids)
        self.obs_buf = self.observation_manager.compute(update_history=True)
        return self.obs_buf, self.extras

    @staticmethod
    def seed(seed: int = -1) -> int:
        """Seeds the process's global generators."""
        return configure_seed(seed)

    def close(self) -> None:
        if self._is_closed:
            return
        del self.action_manager
        del self.observation_manager
        del self.event_manager
        del self.recorder_manager
        del self.scene
        self.sim.clear_all_callbacks()
        self.sim.clear_instance()
        self._is_closed = True

    def _reset_idx(self, env_ids: EnvIds) -> None:
        raise NotImplementedError("only the task's environment is implemented here")

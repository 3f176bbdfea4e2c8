"""The simulation."""

from isaaclab._kit import require

require()

from .simulation_cfg import RenderCfg, SimulationCfg  # noqa: E402 - Kit comes first
from .simulation_context import SimulationContext  # noqa: E402

__all__ = ["RenderCfg", "SimulationCfg", "SimulationContext"]

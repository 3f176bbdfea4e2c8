"""The managers that make an environment of a configuration."""

from isaaclab._kit import require

require()

from .action_manager import ActionManager, ActionTerm  # noqa: E402 - Kit comes first
from .command_manager import CommandManager, CommandTerm  # noqa: E402
from .curriculum_manager import CurriculumManager  # noqa: E402
from .event_manager import EventManager  # noqa: E402
from .manager_base import ManagerBase, ManagerTermBase  # noqa: E402
from .manager_term_cfg import (  # noqa: E402
    ActionTermCfg,
    CommandTermCfg,
    CurriculumTermCfg,
    EventTermCfg,
    ManagerTermBaseCfg,
    ObservationGroupCfg,
    ObservationTermCfg,
    RecorderTermCfg,
    RewardTermCfg,
    TerminationTermCfg,
)
from .observation_manager import ObservationManager  # noqa: E402
from .recorder_manager import RecorderManager, RecorderManagerBaseCfg  # noqa: E402
from .reward_manager import RewardManager  # noqa: E402
from .scene_entity_cfg import SceneEntityCfg  # noqa: E402
from .termination_manager import TerminationManager  # noqa: E402

__all__ = [
    "ActionManager",
    "ActionTerm",
    "ActionTermCfg",
    "CommandManager",
    "CommandTerm",
    "CommandTermCfg",
    "CurriculumManager",
    "CurriculumTermCfg",
    "EventManager",
    "EventTermCfg",
    "ManagerBase",
    "ManagerTermBase",
    "ManagerTermBaseCfg",
    "ObservationGroupCfg",
    "ObservationManager",
    "ObservationTermCfg",
    "RecorderManager",
    "RecorderManagerBaseCfg",
    "RecorderTermCfg",
    "RewardManager",
    "RewardTermCfg",
    "SceneEntityCfg",
    "TerminationManager",
    "TerminationTermCfg",
]

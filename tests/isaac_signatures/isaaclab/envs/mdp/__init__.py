"""Terms that tasks are made of."""

from .actions import *  # noqa: F403
from .commands import *  # noqa: F403
from .curriculums import *  # noqa: F403
from .events import *  # noqa: F403
from .observations import *  # noqa: F403
from .rewards import *  # noqa: F403
from .terminations import *  # noqa: F403

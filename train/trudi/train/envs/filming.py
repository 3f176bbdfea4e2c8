"""Films of a training, as Isaac Lab's `--video` makes them: so many steps, every so many steps."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np

from trudi.runtime.video_file import VideoWriter
from trudi.train.errors import TrainError

Draw = Callable[[], Any]


class Camera:
    """Films `length` steps of every `interval` into `folder`/step_N.mp4, N being the first step filmed.

    `step_s` is the time between steps (s); a film begins at multiples of `interval`, from `steps_done` on.
    """

    def __init__(self, folder: Path, length: int, interval: int, step_s: float, steps_done: int = 0) -> None:
        if not 1 <= length <= interval:
            raise TrainError(f"--video-length is {length} and --video-interval {interval}: it must be 1 to the interval")
        self._folder, self._length, self._interval, self._step_s = folder, length, interval, step_s
        self._steps = steps_done
        self._open = ExitStack()
        self._film: VideoWriter | None = None

    def step(self, draw: Draw) -> None:
        """A step was made; `draw` gives the frame (height, width, 3) after it, and is called where it is filmed."""
        into = self._steps % self._interval
        if self._film is not None or into == 0:
            frame = np.asarray(draw(), dtype=np.uint8)
            if self._film is None:
                height, width = (size // 2 * 2 for size in frame.shape[:2])  # H.264 takes even sizes
                path = self._folder / f"step_{self._steps:08d}.mp4"
                self._film = self._open.enter_context(VideoWriter(path, 1.0 / self._step_s, width, height))
            height, width = (size // 2 * 2 for size in frame.shape[:2])
            self._film.add(frame[:height, :width])
        self._steps += 1
        if into + 1 == self._length:
            self.close()

    def close(self) -> None:
        """Ends the film that is being made, if there is one."""
        self._open.close()
        self._film = None

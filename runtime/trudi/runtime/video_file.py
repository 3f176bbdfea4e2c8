"""Videos written frame by frame, by the ffmpeg that imageio-ffmpeg brings."""

from __future__ import annotations

import os
from collections.abc import Generator
from importlib import import_module
from pathlib import Path
from types import TracebackType
from typing import Protocol, cast

import numpy as np
from numpy.typing import NDArray

from trudi.runtime.errors import TrudiRuntimeError

Frame = NDArray[np.uint8]
"""(height, width, 3), red first."""


class _Ffmpeg(Protocol):
    """The part of `imageio_ffmpeg` that is used here."""

    def write_frames(
        self,
        path: str,
        size: tuple[int, int],
        *,
        fps: float,
        codec: str,
        quality: int,
        macro_block_size: int,
        output_params: list[str],
    ) -> Generator[None, Frame | None, None]: ...


def load_ffmpeg() -> _Ffmpeg:
    """The library; TrudiRuntimeError where it is not installed."""
    try:
        return cast("_Ffmpeg", import_module("imageio_ffmpeg"))
    except ImportError as error:
        raise TrudiRuntimeError("writing video needs imageio-ffmpeg: pip install 'trudi[video]'") from error


class VideoWriter:
    """An mp4 (H.264) that appears under its name when the `with` block ends well, and not at all otherwise."""

    def __init__(self, path: Path, fps: float, width: int, height: int) -> None:
        if path.suffix != ".mp4":
            raise TrudiRuntimeError(f"video '{path}' must end in .mp4")
        self.path = path
        self.frames = 0
        """Frames added so far."""
        self._shape = (height, width, 3)
        self._partial = path.with_name(f".{path.stem}.{os.getpid()}.partial.mp4")
        ffmpeg = load_ffmpeg()
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._partial.touch()
        except OSError as error:
            raise TrudiRuntimeError(f"cannot write the video {path}: {error}") from error
        self._sink = ffmpeg.write_frames(
            str(self._partial),
            (width, height),
            fps=fps,
            codec="libx264",
            quality=7,
            macro_block_size=2,  # else sizes are rounded up to multiples of 16
            output_params=["-movflags", "+faststart"],
        )
        self._sink.send(None)

    def add(self, frame: Frame) -> None:
        """Appends one frame (height, width, 3)."""
        if frame.shape != self._shape:
            raise ValueError(f"frame is {frame.shape}, the video is {self._shape}")
        try:
            self._sink.send(np.ascontiguousarray(frame))
        except OSError as error:
            raise TrudiRuntimeError(f"ffmpeg stopped while writing {self.path}: {error}") from error
        self.frames += 1

    def __enter__(self) -> VideoWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._sink.close()
        try:
            if kind is None:
                if self.frames == 0 or self._partial.stat().st_size == 0:
                    raise TrudiRuntimeError(
                        f"no video at {self.path}: {self.frames} frames were drawn and ffmpeg wrote nothing"
                    )
                self._partial.replace(self.path)
        finally:
            self._partial.unlink(missing_ok=True)

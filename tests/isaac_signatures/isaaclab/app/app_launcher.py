"""The launcher's arguments, their defaults, and what it does to its input, to `sys.argv` and to the process."""

from __future__ import annotations

import argparse
import os
import signal
import sys
from types import FrameType
from typing import Any, ClassVar

from isaaclab._kit import SimulationApp


class ExplicitAction(argparse.Action):
    """Stores the value and that it was given."""

    def __call__(self, parser: Any, namespace: argparse.Namespace, values: Any, option_string: str | None = None) -> None:
        setattr(namespace, self.dest, values)
        setattr(namespace, f"{self.dest}_explicit", True)


class AppLauncher:
    """Starts the application. The dictionary (or the namespace's own) that is passed is changed in place."""

    _APPLAUNCHER_CFG_INFO: ClassVar[dict[str, tuple[list[type], Any]]] = {
        "headless": ([bool], False),
        "livestream": ([int], -1),
        "enable_cameras": ([bool], False),
        "xr": ([bool], False),
        "device": ([str], "cuda:0"),
        "experience": ([str], ""),
        "rendering_mode": ([str], "balanced"),
    }

    def __init__(self, launcher_args: argparse.Namespace | dict[str, Any] | None = None, **kwargs: Any) -> None:
        given = vars(launcher_args) if isinstance(launcher_args, argparse.Namespace) else launcher_args
        args: dict[str, Any] = {} if given is None else given
        if twice := kwargs.keys() & args.keys():
            raise ValueError(f"given both in launcher_args and as keyword: {sorted(twice)}")
        args.update(kwargs)

        self._resolve_screen(args)
        self._resolve_device(args)
        experience = args.pop("experience", "")
        self._start(args, experience)
        # The real launcher takes these over as well: a handler that the caller had set is gone.
        for number in (signal.SIGTERM, signal.SIGABRT, signal.SIGSEGV):
            signal.signal(number, self._abort_signal_handle_callback)

    @property
    def app(self) -> SimulationApp:
        return self._app

    @staticmethod
    def add_app_launcher_args(parser: argparse.ArgumentParser) -> None:
        """Adds the launcher's options. Parses `sys.argv` with the options so far, so a required one must be there."""
        defaults = {name: info[1] for name, info in AppLauncher._APPLAUNCHER_CFG_INFO.items()}
        known = vars(_parse_without_help(parser))
        if taken := sorted(known.keys() & defaults.keys()):
            raise ValueError(f"the parser has options that the launcher adds: {taken}")
        group = parser.add_argument_group("app_launcher arguments")
        group.add_argument("--headless", action="store_true", default=defaults["headless"])
        group.add_argument("--livestream", type=int, default=defaults["livestream"], choices={0, 1, 2})
        group.add_argument("--enable_cameras", action="store_true", default=defaults["enable_cameras"])
        group.add_argument("--xr", action="store_true", default=defaults["xr"])
        group.add_argument("--device", type=str, action=ExplicitAction, default=defaults["device"])
        group.add_argument("--cpu", action="store_true", help=argparse.SUPPRESS)
        group.add_argument("--verbose", action="store_true")
        group.add_argument("--info", action="store_true")
        group.add_argument("--experience", type=str, default="")
        group.add_argument(
            "--rendering_mode", type=str, action=ExplicitAction, choices={"performance", "balanced", "quality"}
        )
        group.add_argument("--kit_args", type=str, default="")
        group.add_argument("--anim_recording_enabled", action="store_true")
        group.add_argument("--anim_recording_start_time", type=float, default=0)
        group.add_argument("--anim_recording_stop_time", type=float, default=10)

    def _resolve_screen(self, args: dict[str, Any]) -> None:
        stream = args.pop("livestream", -1)
        self._livestream = stream if stream >= 0 else int(os.environ.get("LIVESTREAM", "0"))
        asked = args.pop("headless", False)
        self._headless = bool(asked or self._livestream in {1, 2} or int(os.environ.get("HEADLESS", "0")))
        args["headless"] = self._headless
        self._enable_cameras = bool(args.get("enable_cameras", False) or int(os.environ.get("ENABLE_CAMERAS", "0")))
        self._offscreen_render = self._enable_cameras and self._headless
        self._xr = bool(args.get("xr", False))
        args["hide_ui"] = self._headless and not self._livestream
        args["create_new_stage"] = False

    def _resolve_device(self, args: dict[str, Any]) -> None:
        device = args.get("device", "cuda:0")
        args.pop("device_explicit", None)
        if "cuda" not in device and "cpu" not in device:
            raise ValueError(f"device is {device!r}; expected 'cuda', 'cuda:<device_id>' or 'cpu'")
        if args.get("cpu", False):
            raise ValueError("--cpu is gone; --device cpu replaces it")
        self.device_id = int(device.split(":")[-1]) if "cuda:" in device else 0
        args["physics_gpu"] = args["active_gpu"] = self.device_id

    def _start(self, args: dict[str, Any], experience: str) -> None:
        kit_args = args.get("kit_args", "").split()
        sys.argv += kit_args  # Kit reads them, and everything else that is there
        self._app = SimulationApp(args, experience=experience)
        # Not what it was before: a redirection of the caller's ends here, as with the real launcher.
        sys.stdout = sys.__stdout__
        sys.argv = [arg for arg in sys.argv if arg not in kit_args]
        self._app.config["offscreen_render"] = self._offscreen_render
        self._app.config["livestream"] = self._livestream
        print(f"[INFO][AppLauncher]: Using device: {args.get('device', 'cuda:0')}")

    def _abort_signal_handle_callback(self, number: int, frame: FrameType | None) -> None:
        self._app.close()


def _parse_without_help(parser: argparse.ArgumentParser) -> argparse.Namespace:
    """What `sys.argv` says so far; `-h` must wait until the launcher's own options are listed."""
    helps = {key: parser._option_string_actions.pop(key, None) for key in ("-h", "--help")}
    known, _ = parser.parse_known_args()
    parser._option_string_actions.update({key: action for key, action in helps.items() if action is not None})
    return known

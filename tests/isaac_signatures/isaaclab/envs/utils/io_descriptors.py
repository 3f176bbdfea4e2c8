"""What a policy reads and writes, described by the terms themselves."""

from __future__ import annotations

import dataclasses
import functools
import inspect
from collections.abc import Callable
from typing import Any

from torch import Tensor

from isaaclab.utils import configclass


@configclass
class GenericActionIODescriptor:
    """Of an action term. The term sets more attributes than are fields here."""

    mdp_type: str = "Action"
    name: str | None = None
    full_path: str | None = None
    description: str | None = None
    shape: tuple[int, ...] | None = None
    dtype: str | None = None
    action_type: str | None = None
    extras: dict[str, Any] = {}  # noqa: RUF012 - configclass copies it
    export: bool = True


@configclass
class GenericObservationIODescriptor:
    """Of an observation term."""

    mdp_type: str = "Observation"
    name: str | None = None
    full_path: str | None = None
    description: str | None = None
    shape: tuple[int, ...] | None = None
    dtype: str | None = None
    observation_type: str | None = None
    extras: dict[str, Any] = {}  # noqa: RUF012 - configclass copies it


def generic_io_descriptor(
    _func: Callable[..., Any] | None = None,
    *,
    on_inspect: Callable[..., Any] | list[Callable[..., Any]] | None = None,
    **descriptor_kwargs: Any,
) -> Any:
    """Decorates a term function: `func(env, inspect=True)` fills `func._descriptor` by the hooks."""
    hooks = [on_inspect] if callable(on_inspect) else list(on_inspect or ())
    fields = {field.name for field in dataclasses.fields(GenericObservationIODescriptor)}  # type: ignore[arg-type]
    descriptor = GenericObservationIODescriptor(**{k: v for k, v in descriptor_kwargs.items() if k in fields})
    descriptor.extras = {k: v for k, v in descriptor_kwargs.items() if k not in fields}

    def decorate(func: Callable[..., Any]) -> Callable[..., Any]:
        signature = inspect.signature(func)

        @functools.wraps(func)
        def wrapper(env: Any, *args: Any, **kwargs: Any) -> Any:
            asked = kwargs.pop("inspect", False)
            output = func(env, *args, **kwargs)
            if asked:
                bound = signature.bind(env, *args, **kwargs)
                bound.apply_defaults()
                for hook in hooks:
                    hook(output=output, descriptor=descriptor, **bound.arguments)
            return output

        descriptor.name = func.__name__
        descriptor.full_path = f"{func.__module__}.{func.__name__}"
        descriptor.dtype = str(descriptor.dtype)
        descriptor.description = descriptor.description or " ".join((func.__doc__ or "").split())
        wrapper._descriptor = descriptor  # type: ignore[attr-defined]
        wrapper._has_descriptor = True  # type: ignore[attr-defined]
        wrapper.__signature__ = signature  # type: ignore[attr-defined]
        return wrapper

    return decorate if _func is None else decorate(_func)


def record_shape(output: Tensor, descriptor: Any, **kwargs: Any) -> None:
    descriptor.shape = (output.shape[-1],)


def record_dtype(output: Tensor, descriptor: Any, **kwargs: Any) -> None:
    descriptor.dtype = str(output.dtype)


def record_joint_names(output: Tensor, descriptor: Any, **kwargs: Any) -> None:
    names = kwargs["env"].scene[kwargs["asset_cfg"].name].joint_names
    ids = kwargs["asset_cfg"].joint_ids
    descriptor.joint_names = names[ids] if isinstance(ids, slice) else [names[i] for i in ids]


def record_joint_pos_offsets(output: Tensor, descriptor: Any, **kwargs: Any) -> None:
    data = kwargs["env"].scene[kwargs["asset_cfg"].name].data
    descriptor.joint_pos_offsets = data.default_joint_pos[:, kwargs["asset_cfg"].joint_ids][0]


def record_joint_vel_offsets(output: Tensor, descriptor: Any, **kwargs: Any) -> None:
    data = kwargs["env"].scene[kwargs["asset_cfg"].name].data
    descriptor.joint_vel_offsets = data.default_joint_vel[:, kwargs["asset_cfg"].joint_ids][0]


def export_articulations_data(env: Any) -> dict[str, dict[str, Any]]:
    """The first environment's defaults: not what an event has randomised since."""
    keys = ("pos", "vel", "pos_limits", "damping", "stiffness", "friction", "armature")
    return {
        name: {"joint_names": robot.joint_names}
        | {f"default_joint_{key}": getattr(robot.data, f"default_joint_{key}")[0].cpu().tolist() for key in keys}
        for name, robot in env.scene.articulations.items()
    }


def export_scene_data(env: Any) -> dict[str, Any]:
    return {"physics_dt": env.physics_dt, "dt": env.step_dt, "decimation": env.cfg.decimation}

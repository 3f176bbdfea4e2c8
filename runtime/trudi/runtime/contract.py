"""The bundle's contract: everything a runtime must know to run a policy on a robot, typed and versioned.

Time inside one control step, for the observation o and the command u of every joint (or actuator):

    o = scale * clip(raw - offset, clip)        each term; delayed, then stacked over `history` frames, oldest first
    a = graph(o)                                in [-1, 1] where the runtime applies scale and offset
    u = offset + scale * a                      by whom: `action.scale_offset_applied_by`; once, never twice
    u = clip(u, clip), then at most rate_limit * control_period_s away from the last u

Joints, actions and terms are matched by name, never by index. Quaternions are x, y, z, w. SI units throughout.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, Strict, model_validator

from trudi.runtime.consistency import check_contract
from trudi.runtime.interface import Action, Command, Robot, Term
from trudi.runtime.model import (
    MAX_ITEMS,
    Float,
    Floats,
    Int,
    Model,
    Name,
    NonNegative,
    Positive,
    Range,
    Seed,
    Size,
    Text,
)
from trudi.runtime.paths import FileName

SCHEMA_VERSION = "1.3"


class Task(Model):
    """What the policy was trained on."""

    backend: Name
    """The simulator: `envpool`, `mjlab`, `isaaclab`."""
    id: Name
    """The task's name in that simulator, without the backend."""


class Sampler(Model):
    """How an action is drawn from the diffusion policy."""

    network: Literal["teacher", "student"]
    """The trained policy itself, or a network distilled from it."""
    steps: Annotated[Int, Field(ge=1, le=1024)]
    """Denoising steps N in the graph."""
    ode: Annotated[bool, Strict()]
    """True: no noise is added between the steps (probability-flow ODE). False: the SDE that was trained."""
    noise: Literal["zero", "fixed", "seeded", "warm", "input"]
    """The latent x_0 the chain starts from. Constants of the graph: `zero`, or `fixed`, one draw from `seed`. In the
    graph's `latent` input: `seeded`, the runtime draws one each control step from a generator started with `seed`;
    `warm`, the last control step's latent; `input`, the caller gives it."""
    seed: Seed | None = None
    """Seed of `fixed` and `seeded` noise; null otherwise."""
    latent_std: Positive
    """Standard deviation sigma0 of the prior over latents."""

    @property
    def needs_latent(self) -> bool:
        """Whether the graph has a `latent` input."""
        return self.noise in ("seeded", "warm", "input")

    @model_validator(mode="after")
    def _seed_where_needed(self) -> Sampler:
        if (self.noise in ("fixed", "seeded")) != (self.seed is not None):
            raise ValueError(
                f"sampler.noise is {self.noise} and sampler.seed is {self.seed}; fixed and seeded noise need a seed"
            )
        return self


class Tensor(Model):
    """An input or output of the graph."""

    name: Name
    """`observation` and, where the noise is given from outside, `latent`; the output is `action`."""
    dtype: Literal["float32"] = "float32"
    """Type of the elements, whatever the precision inside."""
    shape: tuple[Size | Literal["any"], Size]
    """Batch (a number, or `any`) and elements."""


class Graph(Model):
    """The file that computes the action: normaliser and all denoising steps inside."""

    file: FileName
    """Its name in the bundle: `policy.onnx`."""
    opset: Annotated[Int, Field(ge=1, le=1000)]
    """Version of the standard ONNX operators."""
    precision: Literal["fp32", "fp16", "bf16", "int8"]
    """Of the weights and products inside."""
    batch: Size | Literal["any"]
    """Observations per call: a fixed number, or `any`."""
    inputs: Annotated[tuple[Tensor, ...], Field(min_length=1, max_length=8)]
    """`observation` [batch, n] and, where the sampler needs it, `latent` [batch, m]."""
    outputs: Annotated[tuple[Tensor, ...], Field(min_length=1, max_length=8)]
    """`action` [batch, m]."""


class ObservationRange(Model):
    """Where observations lay in training: a bound for each element of the graph's observation, in the graph's order."""

    low: Floats
    """Lowest value, after offset, clip and scale."""
    high: Floats
    """Highest value, after offset, clip and scale."""
    sigmas: Positive | None = None
    """Standard deviations from the mean that low and high stand for; null where they are the extremes seen."""


class Safety(Model):
    """Thresholds of the supervisor."""

    state_age_warn_s: Positive = 0.1
    """Age of the robot's state that warns; s."""
    state_age_lost_s: Positive = 0.5
    """Age of the robot's state that is a fault; s."""
    command_lost_s: Positive = 2.0
    """Age of a command after which the robot stands; no shorter than any command's timeout_s; s."""
    command_slew_s: Positive | None = None
    """Shortest time in which a command crosses its whole range: one that jumps is shown to the policy as a ramp of that
    steepness; s. Null: at once."""
    max_overruns_in_row: Annotated[Int, Field(ge=1, le=1000)] = 5
    """Control periods missed one after the other that are a fault."""
    max_tilt_rad: Annotated[Float, Field(gt=0, le=3.1416)] | None = 1.0
    """Angle between the base's up axis and the world's that is a fault; rad. Null: never."""
    max_action_rate_per_s: Positive | None = None
    """Fastest change of any element of the policy's action (before scale and offset) that is no fault; 1/s."""
    observation_range: ObservationRange | None = None
    """Where observations lay in training; null where it is not known."""


class Evaluation(Model):
    """One evaluation of the policy in its simulator."""

    sampler: Name
    """How actions were drawn: `ode`, `sde`, `student`, ..."""
    return_mean: Float
    """Mean undiscounted return; reward."""
    return_std: NonNegative
    """Sample standard deviation over episodes; reward."""
    return_ci95: Range
    """Bounds of the mean's 95 % confidence interval; reward."""
    episodes: Annotated[Int, Field(ge=1)]
    """Number of episodes."""
    seed: Seed
    """Seed of the episodes."""


class Provenance(Model):
    """Where the policy comes from."""

    run: Text
    """Name of the training run."""
    seed: Seed
    """Seed of the training run."""
    iteration: Annotated[Int, Field(ge=0)] | None = None
    """Training iteration of the weights."""
    env_steps: Annotated[Int, Field(ge=0)] | None = None
    """Environment steps the weights were trained for."""
    git_commit: Text | None = None
    """Commit of the training code; null outside a repository."""
    git_dirty: Annotated[bool, Strict()] | None = None
    """Whether that code had uncommitted changes."""
    versions: Annotated[dict[Name, Text], Field(max_length=MAX_ITEMS, default_factory=dict)]
    """Versions of the packages that trained and exported it."""
    evaluations: Annotated[tuple[Evaluation, ...], Field(max_length=MAX_ITEMS, fail_fast=True)] = ()
    """Scores of the policy before export."""


class Divergence(Model):
    """How far a student's actions are from its teacher's, for the same observations and latents."""

    action_rms: NonNegative
    """Root mean square difference of an element of the action, before scale and offset."""
    action_p99: NonNegative
    """Largest difference of any element, not exceeded in 99 % of the observations."""
    action_max: NonNegative
    """Largest difference of any element in any observation."""
    observations: Annotated[Int, Field(ge=1)]
    """Observations it was measured at, those of the teacher's evaluation."""


class Student(Model):
    """A cheaper network beside the teacher, for when the teacher misses its deadline; the same observation and action."""

    sampler: Sampler
    """How its actions are drawn; its network is `student`."""
    graph: Graph
    """Its file."""
    divergence: Divergence | None = None
    """How far it is from the teacher; null where that was not measured."""


class Contract(Model):
    """`bundle.json`."""

    schema_version: Text
    """MAJOR.MINOR of the schema the file was written by."""
    kind: Literal["trudi_policy"] = "trudi_policy"
    """What the bundle is."""
    task: Task
    """What the policy was trained on."""
    robot: Robot | None
    """The machine it drives; null for tasks that have actuators only, whose names and range are in `action`."""
    action: Action
    """What the graph's output means."""
    observation: Annotated[tuple[Term, ...], Field(min_length=1, max_length=MAX_ITEMS, fail_fast=True)]
    """The terms of the graph's input, in order; their sizes add up to its size."""
    commands: Annotated[tuple[Command, ...], Field(max_length=MAX_ITEMS, fail_fast=True)] = ()
    """What may be asked of the policy."""
    quaternion_order: Literal["xyzw"] = "xyzw"
    """Order of every quaternion's elements."""
    control_period_s: Positive
    """Time between two actions; s."""
    sampler: Sampler
    """How actions are drawn."""
    graph: Graph
    """The file that computes them."""
    student: Student | None = None
    """A cheaper network beside it."""
    safety: Safety
    """Thresholds of the supervisor."""
    provenance: Provenance
    """Where the policy comes from."""

    @property
    def observation_size(self) -> int:
        """Elements n of the graph's observation."""
        return sum(term.total_size for term in self.observation)

    @model_validator(mode="after")
    def _consistent(self) -> Contract:
        check_contract(self)
        return self

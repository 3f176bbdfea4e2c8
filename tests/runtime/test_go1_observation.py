"""The simulated Go1 through the runtime's own terms, actions and commands, against EnvPool's task, step by step."""

import sys
from pathlib import Path

import numpy as np
from flights import GO1, contract_values

from trudi.runtime.controller import Controller, ControllerCfg, Outcome
from trudi.runtime.reading import parse_contract
from trudi.runtime.robots.base import JointCommand, RobotState
from trudi.runtime.robots.base import SupervisorState as State
from trudi.runtime.robots.simulation import make_simulation
from trudi.runtime.site_file import SiteFile
from trudi.runtime.supervisor import Event
from trudi.train.envs.assets import mesh_free_assets
from trudi.train.envs.envpool import make_pool

sys.path.insert(0, str(Path(__file__).parent / "robots"))
from test_simulation import start_like

STEPS = 500
PHYSICS_NS = 4_000_000


def test_the_observation_rebuilt_by_the_runtime_is_envpools(tmp_path):
    """500 control steps of random actions: the graph's answers are the actions, everything else is the runtime's own work.

    The robot gives its joints in another order than the policy's, to make the mapping by name part of the proof.
    """
    simulation = make_simulation(GO1)
    order = np.random.default_rng(5).permutation(12)
    robot, shuffled = simulation.describe(), shuffle(simulation.describe(), order)
    contract = parse_contract(contract_values("unitree_go1", GO1))[0]
    controller = Controller(contract, shuffled, SiteFile(joints={}, stand_s=1e-9, fade_in_s=0.0), ControllerCfg(250.0))
    pool = make_pool(GO1, 1, seed=3, num_threads=1, noise_level=0.0, base_path=str(mesh_free_assets(GO1, tmp_path)))
    observed, _ = pool.reset()
    start_like(simulation, observed)
    plain, given = RobotState.zeros(robot), RobotState.zeros(shuffled)
    rng, now_ns, worst, slot = np.random.default_rng(3), 1_000_000_000, 0.0, 0
    obeyed = obey(simulation, order)

    def arrive():
        simulation.measure(plain)
        given.values[:] = plain.values
        for name in ("joint_position", "joint_velocity", "joint_effort"):
            getattr(given, name)[:] = getattr(plain, name)[order]
        given.stamp_ns = given.received_ns = now_ns
        controller.receive(given)

    arrive()
    controller.command(0, observed["state"][0][45:], now_ns)
    assert controller.request(Event.CONFIGURE, now_ns) is None
    controller.begin(now_ns, 0, 0)
    for event in (Event.ACTIVATE, Event.STAND):
        assert controller.request(event, now_ns) is None
    assert controller.request(Event.START, now_ns + 1_000_000) is None
    for _ in range(STEPS):
        action = rng.uniform(-0.3, 0.3, 12)
        for substep in range(5):
            controller.command(0, observed["state"][0][45:], now_ns)
            slot += 1
            stepped = controller.begin(now_ns, slot, 0)
            assert stepped == (substep == 0)
            if stepped:
                difference = controller.observer.observation[0] - observed["state"][0].astype(np.float32)
                worst = max(worst, float(np.abs(difference).max()))
            outcome = Outcome.TEACHER if stepped else Outcome.NONE
            command = controller.finish(now_ns, outcome, action.astype(np.float32)[None] if stepped else None)
            simulation.step(obeyed(command))
            now_ns += PHYSICS_NS
            arrive()
        observed, _, terminated, truncated, _ = pool.step(action.astype(np.float32).astype(float)[None])
        assert not terminated[0] and not truncated[0]
    pool.close()
    assert controller.supervisor.state is State.ACTIVE and controller.supervisor.fault is None
    assert worst <= 1e-6


def shuffle(robot, order):
    """The robot with its joints and drives in another order."""
    joints = tuple(robot.joints[place] for place in order)
    damping = tuple(robot.damping[place] for place in order)
    return robot.model_copy(update={"joints": joints, "drives": tuple(j.name for j in joints), "damping": damping})


def obey(simulation, order):
    """Commands back in the simulation's order."""
    own = JointCommand.zeros(len(order))

    def put(command):
        own.values[:, order] = command.values
        own.state, own.valid_ns = command.state, command.valid_ns
        return own

    return put

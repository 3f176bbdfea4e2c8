"""The mjlab adapter, on mjlab itself."""

import copy

import pytest
import torch

from trudi.train import checkpoint
from trudi.train.config import parse_config
from trudi.train.envs import mjlab, registry
from trudi.train.envs.base import SimCfg
from trudi.train.envs.conformance import check
from trudi.train.envs.manager_based import ManagerBasedEnv
from trudi.train.envs.randomness import Randomness
from trudi.train.errors import TrainError
from trudi.train.loop import Learner
from trudi.train.runfolder import MetricsLog, RunFolder

CPU = torch.device("cpu")
BALANCE, GO1 = "mjlab:Mjlab-Cartpole-Balance", "mjlab:Mjlab-Velocity-Flat-Unitree-Go1"
SHORT = ("episode_length_s=0.6",)  # 12 control steps of the cart-pole


def make(task=BALANCE, num_envs=4, seed=0, stagger=False, overrides=SHORT, **sim):
    return registry.make_env(
        task, num_envs, seed, device=CPU, stagger=stagger, sim=SimCfg(overrides=tuple(overrides), **sim)
    )


def tiny(task=BALANCE, **changes):
    """A configuration that trains in seconds."""
    values = {"num_envs": 8, "rollout_steps": 8, "max_iterations": 4, "save_every": 2}
    values |= {"update": {"epochs": 1, "minibatch_size": 32}, "policy": {"width": 16}, "critic": {"width": 16}}
    values |= {"evaluation": {"every": 0, "episodes": 2}, "sim": {"overrides": list(SHORT)}}
    return parse_config({"task": task} | values | changes, "test")


def train(cfg, path, resume=False):
    folder = RunFolder.open(path) if resume else RunFolder.create(path, cfg)
    learner = Learner(cfg, folder.load_checkpoint() if resume else None)
    log = MetricsLog(folder, learner.counters.iteration)
    rows = []
    learner.train(folder.checkpoints, log, lambda progress: rows.append(progress.metrics))
    log.close()
    learner.close()
    return checkpoint.load(folder.checkpoints / "last").tensors, rows


def test_every_promise_is_kept():
    report = check(lambda num_envs, seed, stagger: make(num_envs=num_envs, seed=seed, stagger=stagger), num_envs=4)
    assert {finding.verdict for finding in report.findings} == {"passed"}, str(report)


def test_its_tasks_are_all_there():
    names = mjlab.task_names()
    assert len(names) == 12 and {"Mjlab-Cartpole-Swingup", "Mjlab-Velocity-Rough-Unitree-G1"} <= set(names)
    info = registry.describe_task(BALANCE)
    assert info.actor == {"cart_pos": 1, "pole_angle": 2, "cart_vel": 1, "pole_vel": 1} and info.critic == info.actor
    assert (info.action_size, info.control_period_s, info.max_episode_steps) == (1, 0.05, 1000)


def test_the_hook_sees_what_a_manual_reset_sees():
    """Isaac Lab resets inside its step: there the hook on `_reset_idx` must find what `auto_reset=False` returns."""
    manual = make()
    cfg = copy.deepcopy(manual.unwrapped.cfg)
    randomness = Randomness(CPU, 0)
    with randomness:
        cfg.auto_reset = True
        unwrapped = mjlab.ManagerBasedRlEnv(cfg, device="cpu")
    hooked = ManagerBasedEnv(unwrapped, BALANCE, randomness=randomness, seed=0, stagger=False, sim=SimCfg())
    for env in (manual, hooked):
        env.restart(3, stagger=True)
    assert torch.equal(manual.reset().actor, hooked.reset().actor)
    ends = 0
    for _ in range(12):
        one, other = manual.step(torch.ones(4, 1)), hooked.step(torch.ones(4, 1))
        assert torch.equal(one.ended, other.ended) and torch.equal(one.reward, other.reward)
        going_on = ~one.ended
        assert torch.equal(one.observation.actor[going_on], other.observation.actor[going_on])
        if one.terminal is not None:
            ends += len(one.terminal.actor)
            # The hook looks before MuJoCo brings positions and what follows from them to one time.
            assert torch.allclose(one.terminal.actor, other.terminal.actor, atol=1e-6)
        if ends:  # new episodes draw from one stream, in another order
            break
    assert ends
    for env in (manual, hooked):
        env.close()


def test_a_resumed_run_is_the_uninterrupted_one(tmp_path):
    whole, _ = train(tiny(), tmp_path / "whole")
    train(tiny(max_iterations=2), tmp_path / "half")
    half, _ = train(tiny(), tmp_path / "half", resume=True)
    assert [key for key in whole if not torch.equal(whole[key], half[key])] == []
    assert whole["simulator.common_step_counter"] == 4 * 8


def test_an_evaluation_in_between_changes_nothing():
    """mjlab draws from the process's random numbers, and a simulator that is made seeds them."""
    alone, beside = make(seed=5), make(seed=5)
    for env in (alone, beside):
        env.reset()
    seen = [alone.step(torch.zeros(4, 1)).observation.actor for _ in range(14)]
    torch.manual_seed(123)  # no stream that a simulator is in
    before = torch.get_rng_state()
    for step in range(14):
        if step == 6:
            other = make(seed=1)
            other.reset()
            other.close()
        assert torch.equal(beside.step(torch.zeros(4, 1)).observation.actor, seen[step])
    assert torch.equal(torch.get_rng_state(), before), "and the process's own stream is left alone"
    alone.close()
    beside.close()


@pytest.fixture(scope="module")
def go1():
    env = make(GO1, num_envs=4, overrides=("episode_length_s=0.2",))
    yield env
    env.close()


def test_actor_and_critic_see_their_groups(go1):
    assert (go1.actor_size, go1.critic_size, go1.action_size) == (48, 72, 12)
    assert list(go1.info.actor) == [
        "base_lin_vel", "base_ang_vel", "projected_gravity", "joint_pos", "joint_vel", "actions", "command",
    ]  # fmt: skip
    assert list(go1.info.critic)[-4:] == ["foot_height", "foot_air_time", "foot_contact", "foot_contact_forces"]
    seen = go1.reset()
    assert seen.actor.shape == (4, 48) and seen.critic.shape == (4, 72)


def test_a_curriculum_goes_on_after_a_checkpoint(go1):
    """Commands widen to 2 m/s after 120,000 steps: a simulator made anew draws from that range at once."""
    go1.reset()
    start = go1.state()
    assert start["command.twist.ranges.lin_vel_x"].tolist() == [-1.0, 1.0]
    go1.unwrapped.common_step_counter = 130_000
    for _ in range(10):
        step = go1.step(torch.zeros(4, 12))
    assert step.truncated.all()
    later = go1.state()
    assert later["common_step_counter"] == 130_010
    assert later["command.twist.ranges.lin_vel_x"].tolist() == [-1.5, 2.0]

    fresh = make(GO1, num_envs=4, overrides=("episode_length_s=0.2",))
    fresh.restore(later)
    fresh.restart(9)
    fresh.reset()
    assert fresh.unwrapped.cfg.commands["twist"].ranges.lin_vel_x == (-1.5, 2.0)
    assert fresh.unwrapped.common_step_counter == 130_000 + 10
    with pytest.raises(TrainError, match="is another task's"):
        fresh.restore({key: value for key, value in later.items() if key != "common_step_counter"})
    with pytest.raises(TrainError, match=r"'terrain.env_origins' has shape \(5, 3\), this simulator's has \(4, 3\)"):
        fresh.restore(later | {"terrain.env_origins": torch.zeros(5, 3)})
    fresh.close()
    go1.restore(start)


def test_terrain_levels_are_kept_and_not_judged_by_a_restart():
    # In 20 s a commanded robot should have come far: one that was broken off at its start would be judged down a level.
    env = make("mjlab:Mjlab-Velocity-Rough-Unitree-Go1", num_envs=3, overrides=())
    env.reset()
    levels = torch.tensor([0, 2, 4])
    state = env.state()
    env.restore(state | {"terrain.terrain_levels": levels, "common_step_counter": torch.tensor(50.0)})
    env.restart(1)
    env.reset()
    assert torch.equal(env.state()["terrain.terrain_levels"], levels)
    env.close()


def test_go1_trains_and_describes_itself(tmp_path):
    cfg = tiny(GO1, num_envs=4, max_iterations=2, sim={"action_bound": 2.0, "overrides": ["episode_length_s=0.2"]})
    tensors, rows = train(cfg, tmp_path / "run")
    assert tensors["agent.actor_norm.mean"].shape == (48,) and tensors["agent.critic_norm.mean"].shape == (72,)
    reported = {key for row in rows for key in row if key.startswith("simulator/")}
    assert {"simulator/Episode_Reward/track_linear_velocity", "simulator/Episode_Termination/time_out"} <= reported


def test_a_pole_is_balanced_after_seconds_of_training(tmp_path):
    """Episodes of 100 steps: 5 at most, 1 to 2 before anything was learned."""
    changes = {"num_envs": 32, "rollout_steps": 32, "max_iterations": 18, "save_every": 100, "gamma": 0.95}
    changes |= {"policy": {"width": 32, "init_std": 1.0, "steps": 4}, "trust_region": {"bound": 0.4}}
    changes |= {"critic": {"width": 64, "v_min": -0.5, "v_max": 1.5, "bins": 61}, "duals": {"alpha": 2e-4}}
    changes |= {"optim": {"learning_rate": 2e-3}, "sim": {"overrides": ["episode_length_s=5"]}}
    changes |= {"update": {"epochs": 4, "minibatch_size": 128}, "evaluation": {"every": 0, "episodes": 8}}
    _, rows = train(tiny(**changes), tmp_path / "run")
    assert rows[-1]["eval/return_mean"] > 4.0


def test_what_a_user_can_get_wrong():
    with pytest.raises(TrainError, match="unknown mjlab task 'Mjlab-Cartpole'; did you mean Mjlab-Cartpole-"):
        make("mjlab:Mjlab-Cartpole")
    with pytest.raises(TrainError, match="shows images"):
        make("mjlab:Mjlab-Lift-Cube-Yam-Rgb", overrides=())
    with pytest.raises(TrainError, match=r"commands\.motion\.motion_file=FILE\.npz"):
        make("mjlab:Mjlab-Tracking-Flat-Unitree-G1", overrides=())
    with pytest.raises(
        TrainError, match=r"cannot be made with --sim\.overrides commands\.twist\.heading_command=false: ValueError"
    ):
        make(GO1, overrides=("commands.twist.heading_command=false",))
    with pytest.raises(TrainError, match=r"sim\.action_bound is -1"):
        make(action_bound=-1.0)
    with pytest.raises(TrainError, match=r"no 'episode_length_s' in the task's configuration"):
        make("envpool:CartpoleSwingup-v1")

"""Results that nobody measured, as a report takes them: seeded, and shaped like a benchmark's."""

import zlib

import numpy as np

from trudi.train.results import Results, RunResult, Scale

TASKS = tuple(f"envpool:{name}-v1" for name in ("CartpoleSwingup", "CheetahRun", "FingerSpin", "HopperHop", "HumanoidWalk"))
TASKS += ("envpool:ReacherHard-v1", "envpool:WalkerRun-v1", "envpool:WalkerWalk-v1", "mujoco:ReachAround-v1")
VARIANTS = {  # algorithm, steps, seconds a step, how good
    "trudi": ("trudi", 1_000_000, 6e-4, 0.9),
    "reppo": ("reppo", 1_000_000, 3e-4, 0.75),
    "reppo, as long as trudi": ("reppo", 2_000_000, 3e-4, 0.8),
    "ppo": ("ppo", 1_000_000, 2e-4, 0.5),
    "trudi, no trust region": ("trudi", 1_000_000, 6e-4, 0.3),
}
EVALUATIONS, ROWS = 25, 200
FAILURE = 'diverged & stopped: <b>"critic/loss"</b> is not finite'


def made_up(tasks=TASKS, variants=tuple(VARIANTS), seeds=3, failed=(), unfinished=()):
    """`failed` and `unfinished` name runs by (task, variant, seed)."""
    runs = []
    for task in tasks:
        for variant in variants:
            for seed in range(seeds):
                key = (task, variant, seed)
                state = "failed" if key in failed else "interrupted" if key in unfinished else "done"
                runs.append(run(*key, state))
    about = {"title": "Made-up results", "command": "trudi benchmark made_up.yaml", "budget": "1,000,000 steps"}
    return Results(tuple(runs), {tasks[0]: Scale(0.0, 1000.0, "its reward is at most 1 a step")}, about)


def run(task, variant, seed, state="done"):
    algo, steps, seconds_a_step, level = VARIANTS[variant]
    random = np.random.default_rng([zlib.crc32(f"{task} {variant}".encode()), seed])
    share = 1.0 if state == "done" else 0.4
    at = np.linspace(0.0, share, EVALUATIONS + 1)[1:]
    returns = 1000.0 * level * (1.0 - np.exp(-5.0 * at)) + 40.0 * random.standard_normal(EVALUATIONS)
    seconds = at * steps * seconds_a_step
    curve = {"env_steps": at * steps, "elapsed_s": 1.3 * seconds, "cpu_s": seconds}
    curve |= {"return_mean": returns, "return_std": np.full(EVALUATIONS, 30.0)}
    rows = np.linspace(0.0, share, ROWS + 1)[1:]
    wave = 1.0 + 0.2 * random.standard_normal(ROWS)
    diagnostics = {"env_steps": rows * steps, "time/steps_per_s": wave / seconds_a_step}
    if algo != "ppo":
        diagnostics |= {"actor/kl": 0.2 * wave, "actor/kl_max": 2.0 * wave**2, "actor/outside_fraction": 0.1 * wave**2}
        diagnostics |= {"duals/alpha": 0.1 * wave**2, "duals/lambda": 0.01 * wave**2, "actor/entropy": -10.0 * wave}
        diagnostics["actor/entropy_target"] = np.full(ROWS, {"trudi": -8.0}.get(algo, -1.0))
        diagnostics |= {"policy/step_std_mean": 0.7 * wave, "critic/loss": 1.5 * wave}
    if algo == "trudi":
        diagnostics["policy/friction_mean"] = 0.3 * wave
    return RunResult(
        name=f"{task}/{variant}/{seed}",
        task=task,
        variant=variant,
        seed=seed,
        state=state,
        reason=FAILURE if state == "failed" else "",
        options=("--algo", algo),
        commit="abc1234",
        machine="x86_64, 2 cores",
        algo=algo,
        bound=None if algo == "ppo" or "no trust region" in variant else 0.3,
        curve=_columns(curve),
        diagnostics=_columns(diagnostics),
        final={"ode": _column(returns[-1] + 30.0 * random.standard_normal(20))} if state == "done" else {},
    )


def _columns(columns):
    return {key: _column(values) for key, values in columns.items()}


def _column(values):
    return tuple(float(value) for value in values)

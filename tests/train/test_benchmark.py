"""The benchmark: real trainings of a small kind, stopped, killed and resumed; what it refuses; its engines."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from statistics import fmean

import pytest
import yaml

from trudi import cli
from trudi.train.benchmark.grid import only_one
from trudi.train.benchmark.job import Job
from trudi.train.benchmark.launch import launched
from trudi.train.benchmark.plan import cell_name, make_plan, parse_budget, read_plan, write_plan
from trudi.train.benchmark.suite import benchmarks, load_benchmark
from trudi.train.commands import train
from trudi.train.envs.registry import BACKENDS
from trudi.train.errors import TrainError
from trudi.train.results import read_results

TASK = "envpool:CartpoleBalance-v1"
ITERATIONS, SAVE_EVERY = 60, 20  # not the fifth that is usual: every restart of the simulator takes half a second
SMALL = {
    "num_envs": 4,
    "rollout_steps": 8,
    "save_every": SAVE_EVERY,
    "policy": {"width": 16, "steps": 2},
    "critic": {"width": 16},
    "update": {"epochs": 1, "minibatch_size": 16},
    "evaluation": {"every": 30, "episodes": 1},
}
CONTENT = {
    "title": "small",
    "tasks": {TASK: SMALL},
    "variants": {"trudi": {}},
    "seeds": 1,
    "budget": str(ITERATIONS * 32),
    "scales": {"*": {"low": 0, "high": 1000}},
}
FAST = ("--final-episodes", "2", "--jobs", "1", "--calibration-iterations")
IN_TIME_S = 120.0


def written(path, **changes):
    path.write_text(yaml.safe_dump(CONTENT | changes, sort_keys=False))
    return path


def benchmark(suite, out, *more, calibration=0):
    return cli.main(["benchmark", str(suite), "--out", str(out), *FAST, str(calibration), *more])


def started(suite, out, *more):
    command = [sys.executable, "-m", "trudi.cli", "benchmark", str(suite), "--out", str(out), *FAST, "0", *more]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL)


def wait_for(condition):
    until = time.monotonic() + IN_TIME_S
    while not condition():
        assert time.monotonic() < until, "it takes too long"
        time.sleep(0.005)


def rows(out, name):
    path = out / "runs" / name / "metrics.jsonl"
    return path.read_text().count("\n") if path.exists() else 0


def processes(*words):
    """Ids of the processes whose command line holds all of `words`."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            line = path.read_bytes().decode(errors="replace")
            if all(word in line for word in words) and path.with_name("status").read_text().split("State:\t")[1][0] != "Z":
                found.append(int(path.parent.name))
        except OSError:
            continue
    return found


def by_name(out):
    return {one.name: one for one in read_results(out / "results.json").runs}


def outcome(result):
    """What a run showed, but for times."""
    curve = {key: value for key, value in result.curve.items() if not key.endswith("_s")}
    diagnostics = {key: value for key, value in result.diagnostics.items() if not key.startswith("time/")}
    return curve, diagnostics, result.final


def cell(variant):
    return f"envpool-CartpoleBalance-v1--{variant}"


TRUDI, VICTIM = (f"{cell(name)}--0" for name in ("trudi", "victim"))
BOTH = {"trudi": {}, "victim": {}}  # the same settings twice


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A grid of one run that nothing disturbed."""
    folder = tmp_path_factory.mktemp("whole")
    suite = written(folder / "small.yaml")
    assert benchmark(suite, folder / "out", calibration=2) == 0
    return suite, folder / "out"


def test_a_grid_comes_to_its_end(whole):
    _, out = whole
    (done,) = read_results(out / "results.json").runs
    assert (done.name, done.state, done.task, done.variant, done.seed) == (TRUDI, "done", TASK, "trudi", 0)
    assert done.curve["env_steps"] == (30 * 32, 60 * 32)
    assert len(done.final["ode"]) == 2
    said = json.loads((out / "runs" / f"{TRUDI}.final.ode.json").read_text())
    assert (said["iteration"], said["sampler"], said["episodes"]) == (ITERATIONS, "ode", 2)
    assert fmean(said["returns"]) == pytest.approx(fmean(done.final["ode"]), rel=1e-5)
    assert done.options[-4:] == ("--max-iterations", "60", "--threads", "1")
    assert read_results(out / "results.json").scales[TASK].high == 1000.0
    (planned,) = read_plan(out).cells
    spent = [json.loads(line)["time/cpu_s"] for line in calibrated(out).read_text().splitlines()]
    assert len(spent) == 3  # the first of them is left out, the other two are timed
    assert planned.seconds_per_iteration == pytest.approx((spent[2] - spent[0]) / 2)
    assert planned.seconds_per_step == pytest.approx(planned.seconds_per_iteration / 32)


def calibrated(out):
    (found,) = (out / "calibration").glob("*/metrics.jsonl")
    return found


def test_what_is_done_is_skipped(whole, capsys):
    suite, out = whole
    logs = {path: path.stat().st_mtime_ns for path in (out / "runs").iterdir()}
    results, plan = ((out / name).read_text() for name in ("results.json", "plan.yaml"))
    assert benchmark(suite, out, calibration=2) == 0
    assert {path: path.stat().st_mtime_ns for path in logs} == logs
    assert (out / "plan.yaml").read_text() == plan
    assert json.loads((out / "results.json").read_text()) == json.loads(results)
    assert f"{fmean(by_name(out)[TRUDI].final['ode']):.1f}" in capsys.readouterr().out


@contextmanager
def meanwhile(do):
    """Does something in a second thread, and raises here what went wrong there."""
    with ThreadPoolExecutor(1) as pool:
        done = pool.submit(do)
        yield
        done.result()


def test_whatever_ends_a_run_or_the_benchmark_the_result_is_the_same(whole, tmp_path, capsys):
    suite, out = written(tmp_path / "small.yaml", variants=BOTH), tmp_path / "out"
    shutil.copytree(whole[1], out)
    config = out / "configs" / f"{cell('trudi')}.yaml"  # the grid that is there is extended by a variant
    before = config.read_text()

    def stop():
        wait_for(lambda: rows(out, VICTIM) >= 2)
        os.kill(os.getpid(), signal.SIGTERM)

    with meanwhile(stop):
        assert benchmark(suite, out) == 130
    assert by_name(out)[VICTIM].state == "interrupted"
    assert not processes(str(out))

    def kill():
        wait_for(lambda: rows(out, VICTIM) >= SAVE_EVERY + 2)
        (victim,) = processes("trudi.cli\0train", str(out / "runs" / VICTIM))
        os.kill(victim, signal.SIGTERM)  # which it does not hear
        os.kill(victim, signal.SIGKILL)

    with meanwhile(kill):  # it starts over: there was no checkpoint yet
        assert benchmark(suite, out) == 1
    failed = by_name(out)[VICTIM]
    assert failed.state == "failed" and failed.reason.startswith("trudi train was killed by SIGKILL")
    assert len(failed.diagnostics["env_steps"]) >= SAVE_EVERY + 2  # what it did is shown
    assert benchmark(suite, out) == 1 and by_name(out)[VICTIM] == failed  # not tried again by itself
    assert f"failed: {VICTIM}: trudi train was killed by SIGKILL" in capsys.readouterr().out

    parent = started(suite, out, "--retry-failed")
    wait_for(lambda: by_name(out)[VICTIM].state == "running" and rows(out, VICTIM) >= 2 * SAVE_EVERY + 2)
    assert cli.main(["benchmark", str(suite), "--out", str(out)]) == 2
    assert "another benchmark runs in" in capsys.readouterr().err
    parent.kill()
    parent.wait()
    wait_for(lambda: not processes(str(out)))
    assert by_name(out)[VICTIM].state == "running"  # nobody was left to say otherwise

    assert benchmark(suite, out) == 0
    dropped = (out / "runs" / VICTIM / "metrics.superseded.jsonl").read_text().splitlines()
    starts = {(json.loads(line)["iteration"] - 1) // SAVE_EVERY for line in dropped}
    assert starts == {1, 2}  # each time it went on from the last periodic checkpoint
    first, second = (by_name(out)[name] for name in (TRUDI, VICTIM))
    assert outcome(second) == outcome(first)
    assert config.read_text() == before


def test_a_cluster_preempts_a_job_and_another_fails(whole, tmp_path):
    broken = {"overrides": {"sim": {"action_bound": 2.0}}}
    suite = written(tmp_path / "small.yaml", variants={"trudi": {}, "broken": broken})
    out = tmp_path / "out"

    def preempt():
        wait_for(lambda: rows(out, TRUDI) >= SAVE_EVERY + 2)
        (task,) = processes("submitit.core._submit", str(out))
        os.kill(task, signal.SIGUSR2)

    with meanwhile(preempt):
        assert benchmark(suite, out, "--engine", "submitit-local", "--slurm.parameters", "stderr_to_stdout=true") == 1
    failed = by_name(out)[f"{cell('broken')}--0"]
    assert failed.state == "failed"
    assert failed.reason == (
        "sim.action_bound is for simulators without bounds; EnvPool's tasks have their own (trudi train, exit code 2)"
    )
    assert (out / "runs" / TRUDI / "metrics.superseded.jsonl").exists()  # it was queued again, and went on
    assert outcome(by_name(out)[TRUDI]) == outcome(by_name(whole[1])[TRUDI])


def test_a_job_goes_on_from_periodic_checkpoints_alone(tmp_path):
    job = Job("a", str(tmp_path), "", TASK, 0, iterations=50, save_every=20)
    folder = tmp_path / "a" / "checkpoints"
    for name in ("iteration_000020_aa", "iteration_000040_bb", "iteration_000045_cc", ".iteration_000060_dd.1.tmp"):
        (folder / name).mkdir(parents=True)
    assert job.resumable() is None  # a run's folder without a configuration
    (tmp_path / "a" / "config.yaml").touch()
    assert job.resumable() == folder / "iteration_000040_bb"
    (folder / "iteration_000050_ee").mkdir()
    assert job.resumable() == folder / "iteration_000050_ee"


@pytest.mark.parametrize(
    ("text", "steps", "seconds"),
    [
        ("1M", 1e6, None),
        ("500k", 5e5, None),
        ("2e6", 2e6, None),
        ("1.5 M", 1.5e6, None),
        ("10min", None, 600.0),
        ("90s", None, 90.0),
        ("2h", None, 7200.0),
    ],
)
def test_budgets(text, steps, seconds):
    budget = parse_budget(text)
    assert (budget.steps, budget.seconds) == (steps, seconds)


@pytest.mark.parametrize("text", ["", "0", "-1M", "1m", "ten", "1M steps", "1e999", "nan"])
def test_what_is_no_budget_is_refused(text):
    with pytest.raises(TrainError, match=r"neither steps \(1M"):
        parse_budget(text)


SAME = defaultdict(lambda: 1.0)
SPEEDS = {cell("trudi"): 0.5, cell("reppo"): 0.2, cell("reppo-as-long-as-trudi"): 0.25}


def planned(path, before=None, out=None, speeds=SPEEDS, equal_time=False, **changes):
    asked = []

    def measure(drafts):
        asked.extend(drafts)
        return {name: speeds[name] for name in drafts}

    wanted = load_benchmark(str(written(path / "small.yaml", **changes)))
    wanted = wanted.with_equal_time() if equal_time else wanted
    plan, configs = make_plan(wanted, before, out or path, episodes=2, threads=1, measure=measure)
    return plan, configs, asked


def lengths(plan):
    return {one.variant: (one.iterations, one.env_steps) for one in plan.cells}


REPPO = {"trudi": {}, "reppo": {"algo": "reppo"}}


def test_equal_time_follows_from_measured_speeds(tmp_path):
    plan, configs, _ = planned(tmp_path, variants=REPPO, budget="3200", equal_time=True)
    # trudi: 3200 / 32 = 100 iterations of 0.5 s are 50 s; in these reppo does 50 / 0.25 = 200.
    assert lengths(plan) == {"trudi": (100, 3200), "reppo": (100, 3200), "reppo, as long as trudi": (200, 6400)}
    assert [one.seconds for one in plan.cells] == [50.0, 20.0, 50.0]
    assert configs[cell("reppo")].algo == "reppo"


def test_a_run_saves_five_times_unless_told_otherwise(tmp_path):
    small = {key: value for key, value in SMALL.items() if key != "save_every"}
    _, configs, _ = planned(tmp_path, tasks={TASK: small}, variants=REPPO, budget="3232", equal_time=True)
    # 101 iterations, and as long as 101 of 0.5 s with 0.25 s each: 202; a fifth, rounded up.
    assert {name: (one.max_iterations, one.save_every) for name, one in configs.items()} == {
        cell("trudi"): (101, 21),
        cell("reppo"): (101, 21),
        cell("reppo-as-long-as-trudi"): (202, 41),
    }
    _, configs, _ = planned(tmp_path, budget="3232")
    assert configs[cell("trudi")].save_every == SAVE_EVERY


def test_a_budget_of_time_follows_from_measured_speeds(tmp_path):
    plan, _, _ = planned(tmp_path, variants=REPPO, budget="1min")
    assert lengths(plan) == {"trudi": (120, 3840), "reppo": (300, 9600)}
    with pytest.raises(TrainError, match="its length follows from its speed, which was not measured"):
        planned(tmp_path, variants=REPPO, budget="1min", speeds=dict.fromkeys(SPEEDS))


def test_a_plan_is_frozen_and_extended(tmp_path):
    plan, configs, asked = planned(tmp_path, budget="3200")
    assert asked == [cell("trudi")]
    write_plan(plan, configs, tmp_path)
    assert read_plan(tmp_path) == plan
    # Other speeds, another variant and more seeds: what was planned stays, with its speed.
    faster = dict.fromkeys(SPEEDS, 0.1)
    more, configs, asked = planned(
        tmp_path, read_plan(tmp_path), speeds=faster, variants=REPPO, equal_time=True, budget="3200", seeds=2
    )
    assert asked == [cell("reppo"), cell("reppo-as-long-as-trudi")]
    assert lengths(more)["trudi"] == (100, 3200) and more.cells[0].seconds_per_iteration == 0.5
    assert lengths(more)["reppo, as long as trudi"] == (500, 16000)  # 100 x 0.5 s / 0.1 s
    assert [(one.variant, seed) for one, seed in more.order()] == [
        ("trudi", 0),
        ("reppo", 0),
        ("reppo, as long as trudi", 0),
        ("trudi", 1),
        ("reppo", 1),
        ("reppo, as long as trudi", 1),
    ]
    # A smaller grid later: the rest of what is there is not lost.
    write_plan(more, configs, tmp_path)
    less, _, asked = planned(tmp_path, read_plan(tmp_path), budget="3200")
    assert not asked and set(less.cells) == set(more.cells)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"budget": "6400"}, "has budget 3200, not 6400"),
        ({"samplers": ["ode", "sde"]}, "samplers ode, not ode sde"),
        ({"tasks": {TASK: SMALL | {"gamma": 0.5}}}, "trudi in this folder has gamma 0.99, not 0.5"),
        ({"variants": {"trudi": {"overrides": {"policy": {"width": 8}}}}}, "has policy.width 16, not 8"),
        ({"variants": {"trudi": {"algo": "reppo"}}}, "has algo trudi, not reppo"),
    ],
)
def test_what_would_change_existing_runs_is_refused(tmp_path, changes, says):
    plan, configs, _ = planned(tmp_path, budget="3200")
    write_plan(plan, configs, tmp_path)
    with pytest.raises(TrainError, match=says):
        planned(tmp_path, read_plan(tmp_path), **({"budget": "3200"} | changes))


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"titel": "x"}, "unknown key 'titel'; did you mean title"),
        ({"preset": "cheeta_run"}, "no preset 'cheeta_run'; did you mean cheetah_run"),
        ({"tasks": {"envpol:X": {}}}, "unknown backend 'envpol'"),
        ({"tasks": {}}, "a benchmark needs tasks"),
        ({"tasks": {TASK: {"polcy": {}}}}, "unknown key 'polcy'; did you mean policy"),
        ({"tasks": {TASK: {"policy": {"widht": 1}}}}, r"unknown key 'policy.widht'; did you mean width"),
        ({"tasks": {TASK: {"seed": 1}}}, "'seed' is the benchmark's"),
        ({"variants": {"a": {"algorithm": "ppo"}}}, r"variants.a: unknown key 'algorithm'"),
        ({"variants": {"a": {"algo": "repo"}}}, "unknown algo 'repo'; did you mean reppo"),
        ({"variants": {"a": {"overrides": {"max_iterations": 1}}}}, "variant 'a': 'max_iterations' is the benchmark's"),
        ({"variants": {"trudi": {}, "b": {"as_long_as": "trud"}}}, "as long as 'trud', .* did you mean trudi"),
        ({"variants": {"a b": {}, "a-b": {}}}, "would have the same files"),
        ({"samplers": ["odd"]}, "samplers"),
        ({"scales": {"envpool:X": {"low": 0, "high": 1}}}, "is of no task"),
        ({"seeds": 0}, "seeds is 0"),
    ],
)
def test_mistakes_in_a_file_are_named(tmp_path, changes, says):
    with pytest.raises(TrainError, match=says):
        planned(tmp_path, speeds=SAME, **changes)


@pytest.mark.parametrize(
    ("argv", "says"),
    [
        (["dmc_cpuu"], "unknown benchmark 'dmc_cpuu'; did you mean dmc_cpu"),
        (["nothing.yaml"], "no benchmark file 'nothing.yaml'"),
        ([TASK, "--algos", "repo"], "unknown algorithm or variant 'repo'; did you mean reppo"),
        ([TASK, "--samplers", "odd"], "unknown sampler 'odd'"),
        ([TASK, "--seeds", "0"], "--seeds is 0"),
        ([TASK, "--budget", "1X"], "neither steps"),
        (
            [TASK, "--engine", "submitit-local", "--slurm.parameters", "memory=3"],
            r"submitit, local: .*memory",
        ),
    ],
)
def test_mistakes_on_the_command_line_are_named(tmp_path, capsys, argv, says):
    assert cli.main(["benchmark", *argv, "--out", str(tmp_path / "out"), "--calibration-iterations", "0"]) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1 and re.search(says, lines[0]), lines
    assert not (tmp_path / "out" / "plan.yaml").exists()


def test_a_suite_and_a_task_are_benchmarks_too(monkeypatch):
    monkeypatch.delitem(BACKENDS, "playground")
    dmc = load_benchmark("dmc")
    assert len(dmc.tasks) == 23 and set(dmc.variants) >= {"trudi", "reppo"}
    assert dmc.tasks["envpool:BallInCupCatch-v1"].preset == "authors_dmc"
    assert dmc.scales["envpool:CheetahRun-v1"].high == 1000.0
    assert dmc.configuration("envpool:CheetahRun-v1", "trudi", 1).num_envs == 1024
    task = load_benchmark("envpool:CheetahRun-v1")
    own = task.configuration("envpool:CheetahRun-v1", "reppo", 2)
    assert (own.algo, own.threads, own.trust_region.bound) == ("reppo", 2, 0.3)  # the task's own preset


@pytest.mark.parametrize("name", sorted(benchmarks()))
def test_the_benchmarks_that_come_along_are_right(tmp_path, name):
    wanted = load_benchmark(name)
    plan, configs = make_plan(
        wanted, None, tmp_path, episodes=32, threads=1, measure=lambda drafts: dict.fromkeys(drafts, 1.0)
    )
    assert len(configs) == len(wanted.tasks) * len(wanted.variants)
    assert plan.scales.keys() == wanted.tasks.keys()
    settings = [replace(configs[cell_name(next(iter(wanted.tasks)), one)], seed=0) for one in wanted.variants]
    lengthless = [variant for variant in wanted.variants.values() if variant.as_long_as is None]
    assert len(set(map(repr, settings))) >= len(lengthless)  # each differs from the others


def test_a_dry_run_says_what_would_be_run(tmp_path, capsys):
    suite = written(tmp_path / "small.yaml", variants=REPPO, seeds=2)
    assert benchmark(suite, tmp_path / "out", "--dry-run") == 0
    text = capsys.readouterr().out
    assert f"trudi train {TASK} --algo reppo --num-envs 4" in text and "--max-iterations 60" in text
    assert "4 runs, 1 at a time: time unknown" in text
    assert not (tmp_path / "out" / "plan.yaml").exists()


def test_options_that_a_plan_says_are_options_of_training(tmp_path):
    steps = {"overrides": {"policy": {"steps": 4}}}  # beside the task's own width
    plan, configs, _ = planned(tmp_path, variants={"trudi": {}, "reppo": {"algo": "reppo"}, "steps": steps}, speeds=SAME)
    for one in plan.cells:
        args, _ = train.parse([one.task, *one.options])
        assert args.cfg == configs[one.name]


def test_only_one_benchmark_in_a_folder(tmp_path):
    with only_one(tmp_path), pytest.raises(TrainError, match="another benchmark runs in"), only_one(tmp_path):
        pass
    with only_one(tmp_path):
        pass


def test_a_launched_program_is_pinned_deaf_and_dies_with_its_parent(tmp_path):
    core = min(os.sched_getaffinity(0))
    child = "import os, signal; print(os.sched_getaffinity(0), signal.pthread_sigmask(0, ()) >= {2, 15})"
    done = subprocess.run(launched([sys.executable, "-c", child], [core]), capture_output=True, text=True, check=True)
    assert done.stdout.strip() == f"{{{core}}} True"
    begun = tmp_path / "begun"
    child = f"import pathlib, time; pathlib.Path({str(begun)!r}).touch(); time.sleep(300)"
    parent = (
        "import subprocess, sys, time\n"
        "from trudi.train.benchmark.launch import launched\n"
        f"subprocess.Popen(launched([sys.executable, '-c', {child!r}]))\n"
        "time.sleep(300)\n"
    )
    process = subprocess.Popen([sys.executable, "-c", parent])
    wait_for(begun.exists)
    process.kill()
    process.wait()
    wait_for(lambda: not processes(str(begun)))
    # The parent that it was started for is gone already: it does not begin.
    late = launched([sys.executable, "-c", "print(1)"])
    late[4] = "1"
    gone = subprocess.run(late, capture_output=True, text=True, check=False)
    assert gone.returncode == 1 and not gone.stdout and "the parent is gone" in gone.stderr

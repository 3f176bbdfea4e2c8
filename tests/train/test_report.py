"""Reports: numbers against values computed by hand, and what is written from them."""

import dataclasses
import itertools
import json
import math
import sys
from pathlib import Path

import numpy as np
import pytest
from made_up_results import FAILURE, TASKS, made_up, run

from trudi.cli import main as trudi
from trudi.train.errors import TrainError
from trudi.train.report import aggregates as agg
from trudi.train.report.aggregates import aggregate, scale_of
from trudi.train.report.curves import bootstrap_interval, comparison, mean_of_curves, read_at
from trudi.train.report.denoising import DIMS, find_modes, read_pictures, take_picture, write_pictures
from trudi.train.report.published import listing, read_published
from trudi.train.report.report import Report
from trudi.train.report.sources import final_score, gather
from trudi.train.report.style import spread
from trudi.train.results import Results, RunResult, Scale

TASK, OTHER = TASKS[:2]


def a_run(variant="a", seed=0, task="t", *, state="done", final=None, steps=(), returns=(), seconds=(), cpu=()):
    curve = {"env_steps": tuple(steps), "elapsed_s": tuple(seconds), "return_mean": tuple(returns)}
    if cpu:
        curve["cpu_s"] = tuple(cpu)
    found = {} if final is None else {"ode": tuple(final)}
    return RunResult(f"{task}-{variant}-{seed}", task, variant, seed, state, curve=curve, final=found)


def gathered(tmp_path, runs, scales=None, **about):
    path = tmp_path / "results.json"
    Results(tuple(runs), scales or {}, about).write(path)
    return gather([path])


def drawn(*tasks):
    return [np.array([task], dtype=np.float64) for task in tasks]


# Eight scores of two tasks, four seeds each; sorted: 0 0.1 0.2 0.4 0.6 0.8 1.0 1.5.
EIGHT = drawn([0.0, 0.4, 0.8, 1.0], [0.1, 0.2, 0.6, 1.5])


def test_the_interquartile_mean_is_that_of_the_middle_half():
    assert agg.iqm(EIGHT)[0] == pytest.approx((0.2 + 0.4 + 0.6 + 0.8) / 4)  # two of eight cut at either end


def test_mean_and_median_are_over_the_means_of_tasks():
    three = drawn([0.0, 0.4, 0.8, 1.0], [0.1, 0.2, 0.6, 1.5], [0.9, 0.9])  # means 0.55, 0.6, 0.9
    assert agg.mean(three)[0] == pytest.approx((0.55 + 0.6 + 0.9) / 3)
    assert agg.median(three)[0] == pytest.approx(0.6)


def test_the_optimality_gap_does_not_count_what_is_above_one():
    # 1 - x: 1 0.6 0.2 0 | 0.9 0.8 0.4 0
    assert agg.optimality_gap(EIGHT)[0] == pytest.approx(3.9 / 8)


def test_the_probability_of_improvement_counts_pairs_within_a_task_and_ties_half():
    x = drawn([1.0, 3.0], [5.0])
    y = drawn([2.0, 3.0], [5.0, 4.0])
    # Task 1: 1<2 1<3 3>2 3=3 -> 1.5 of 4. Task 2: 5=5 5>4 -> 1.5 of 2.
    assert agg.improvement(x, y)[0] == pytest.approx((0.375 + 0.75) / 2)
    assert agg.improvement(y, x)[0] == pytest.approx(1.0 - (0.375 + 0.75) / 2)


def test_a_profile_is_the_share_strictly_above_a_threshold():
    np.testing.assert_allclose(agg.profile(EIGHT, np.array([0.0, 0.4, 0.5, 1.5]))[0], [7 / 8, 4 / 8, 4 / 8, 0.0])


def test_resamples_draw_seeds_within_their_task():
    resampled = agg.resample([np.array([1.0, 2.0]), np.array([10.0, 20.0, 30.0])], count=500)
    assert [one.shape for one in resampled] == [(500, 2), (500, 3)]
    assert set(resampled[0].ravel()) == {1.0, 2.0}
    assert set(resampled[1].ravel()) == {10.0, 20.0, 30.0}


def test_intervals_over_seeds_are_those_of_all_resamples():
    # Of 0 and 1 the resampled means are 0, 1/2, 1/2, 1: both ends have a chance of a quarter, so 95 % reach them.
    low, high = bootstrap_interval(np.array([[0.0, 7.0], [1.0, 7.0]]))
    assert (low.tolist(), high.tolist()) == ([0.0, 7.0], [1.0, 7.0])
    # Of 27 resamples of three seeds one is all lowest, 3.7 % and more than 2.5 %: the band is from the lowest to the highest
    low, high = bootstrap_interval(np.array([0.0, 1.0, 5.0]))
    assert (float(low), float(high)) == (0.0, 5.0)


def test_a_failed_run_counts_as_the_lowest_score_and_an_unfinished_one_does_not(tmp_path):
    runs = [
        a_run("a", 0, final=[60.0]),
        a_run("a", 1, state="failed", steps=[1], returns=[90.0]),
        a_run("b", 0, final=[50.0]),
    ]
    runs += [a_run("b", 1, state="running", steps=[1], returns=[90.0])]
    found = aggregate(gathered(tmp_path, runs, {"t": Scale(10.0, 110.0)}))
    assert found.runs == {"a": (2, 1), "b": (1, 0)}
    assert found.estimates["Mean"]["a"].value == pytest.approx(0.25)  # (0.5 + 0) / 2
    assert found.estimates["Mean"]["b"].value == pytest.approx(0.4)
    better = found.improvement["a", "b"]
    assert better.value == pytest.approx(0.5)  # 0.5 beats 0.4, the failed one does not
    assert (better.low, better.high) == (0.0, 1.0)


def test_the_scale_is_from_nothing_to_the_best_variants_mean_unless_told(tmp_path):
    runs = [a_run("a", 0, final=[60.0]), a_run("a", 1, final=[80.0]), a_run("b", 0, final=[75.0])]
    scale = scale_of(gathered(tmp_path, runs), "t")
    assert (scale.low, scale.high) == (0.0, 75.0)
    negative = scale_of(gathered(tmp_path, [a_run("a", 0, final=[-5.0]), a_run("b", 0, final=[-25.0])]), "t")
    assert (negative.low, negative.high) == (-25.0, -5.0)
    assert scale_of(gathered(tmp_path, runs, {"t": Scale(-1.0, 3.0)}), "t") == Scale(-1.0, 3.0)


def test_aggregates_compare_those_who_ran_everywhere(tmp_path):
    runs = [a_run(variant, 0, task, final=[5.0]) for variant in "ab" for task in "tu"] + [a_run("c", 0, "t", final=[9.0])]
    found = aggregate(gathered(tmp_path, runs))
    assert (found.tasks, tuple(found.runs), found.left_out) == (("t", "u"), ("a", "b"), ("c",))


def test_a_final_score_is_the_last_policys_else_of_the_last_five_evaluations():
    returns = (0.0, 1.0, 2.0, math.nan, 3.0, 4.0, 5.0)
    assert final_score(a_run(final=[1.0, 2.0], returns=returns)) == 1.5
    assert final_score(a_run(returns=returns)) == 3.0
    assert math.isnan(final_score(a_run()))


def test_samplers_stand_side_by_side_where_there_are_several(tmp_path):
    """Means of 10 and 14 under the SDE: 12 +- sqrt(8)."""

    def measured(seed, **final):
        return dataclasses.replace(run(TASKS[0], "trudi", seed), final=final)

    page = (tmp_path / "report.html", tmp_path / "results.json")
    Results((measured(0, ode=(20.0,)),)).write(page[1])
    Report(gather([page[1]]), []).write(tmp_path)
    assert "Samplers" not in page[0].read_text()
    Results((measured(0, ode=(20.0,), sde=(8.0, 12.0)), measured(1, ode=(20.0,), sde=(14.0,)))).write(page[1])
    Report(gather([page[1]]), []).write(tmp_path)
    assert "12.0 \u00b1 2.8<" in page[0].read_text()


def test_a_mean_curve_is_over_what_all_seeds_share():
    x, y = np.array([0.0, 10.0, 20.0]), np.array([0.0, 10.0, 20.0])
    found = mean_of_curves([(x, y), (np.array([5.0, 15.0]), np.array([15.0, 25.0]))])
    assert found.x.tolist() == [5.0, 10.0, 15.0]
    assert found.mean.tolist() == [10.0, 15.0, 20.0]  # 5 and 15, 10 and 20, 15 and 25
    assert found.low.tolist() == [5.0, 10.0, 15.0]
    assert mean_of_curves([(x, y), (x + 100.0, y)]) is None


def test_a_curve_is_read_near_a_budget_and_not_beyond():
    one = a_run(steps=[80, 89, 95, 100, 110], returns=[1.0, 2.0, 3.0, 5.0, 99.0])
    assert read_at(one, 100.0, "steps") == 4.0  # of 95 and 100
    assert read_at(one, 88.0, "steps") == 1.0  # of 80 alone: 79.2 to 88
    assert read_at(a_run(steps=[10, 50], returns=[1.0, 2.0]), 100.0, "steps") == 2.0  # none near: the last one
    assert math.isnan(read_at(one, 50.0, "steps"))


def test_equal_steps_and_equal_time_take_those_whose_budgets_are_equal(tmp_path):
    def curve(variant, steps, seconds, level, seed=0):
        shares = (0.25, 0.5, 0.75, 1.0)
        returns = [level * share for share in shares]
        return a_run(variant, seed, steps=[steps * s for s in shares], returns=returns, cpu=[seconds * s for s in shares])

    runs = [curve("slow", 1000, 600, 100.0), curve("slow", 980, 600, 200.0, seed=1), curve("fast", 1005, 300, 80.0)]
    runs += [curve("fast, longer", 2200, 660, 120.0), curve("neither", 1025, 720, 90.0)]  # 990 and 600 are the first's
    found = gathered(tmp_path, runs)
    steps, time = (comparison(found, "t", axis) for axis in ("steps", "time"))
    # At 980 steps: slow's 200 and, of its other run, the 75 of 750 steps; fast's 60 of 754.
    assert (steps.budget, [each.variant for each in steps.readings]) == (980.0, ["slow", "fast"])
    assert [each.scores for each in steps.readings] == [(75.0, 200.0), (60.0,)]
    # At 600 s: all of slow; of the longer one the 90 of 495 s.
    assert (time.budget, [each.variant for each in time.readings]) == (600.0, ["slow", "fast, longer"])
    assert [each.scores for each in time.readings] == [(100.0, 200.0), (90.0,)]
    assert time.readings[0].std == pytest.approx(100.0 / math.sqrt(2.0))


def test_sources_are_told_apart_and_bad_ones_named(tmp_path):
    made_up(TASKS[:1], ("trudi",), 1).write(tmp_path / "one.json")
    (tmp_path / "bench").mkdir()
    made_up(TASKS[:1], ("trudi", "ppo"), 1).write(tmp_path / "bench" / "results.json")
    found = gather([tmp_path / "one.json", tmp_path / "bench"])
    assert found.variants == ["trudi", "trudi (bench)", "ppo"]
    (tmp_path / "text.json").write_text("no")
    for path, what in (
        (tmp_path / "none", "does not exist"),
        (tmp_path, "neither a results"),
        (tmp_path / "text.json", "JSON"),
    ):
        with pytest.raises(TrainError, match=what) as raised:
            gather([path])
        assert str(path) in str(raised.value) and "\n" not in str(raised.value)
    Results((run(TASK, "ppo", 0), run(TASK, "ppo", 0))).write(tmp_path / "twice.json")
    with pytest.raises(TrainError, match=r"two runs of ppo on .* have seed 0"):
        gather([tmp_path / "twice.json"])
    Results((run(TASK, "ppo", 0),), {TASK: Scale(3.0, 3.0)}).write(tmp_path / "flat.json")
    with pytest.raises(TrainError, match="from 3 to 3"):
        gather([tmp_path / "flat.json"])
    Results(()).write(tmp_path / "empty.json")
    with pytest.raises(TrainError, match="nothing to report"):
        gather([tmp_path / "empty.json"])


HOSTILE = '<script>alert(1)</script> & "q" $x^2$'


@pytest.fixture(scope="module")
def pictures():
    """Two states of a policy of two action elements: one that knows two ways, one that knows one."""
    random = np.random.default_rng(0)

    def state(tick, centres):
        ends = np.arctanh(np.array(centres)[random.integers(len(centres), size=200)]) + 0.05 * random.standard_normal(
            (200, 2)
        )
        starts = 2.5 * random.standard_normal((40, 2))
        latents = np.linspace(starts, ends[:40], 9)
        chains = {"latents": latents.tolist(), "actions": np.tanh(ends).tolist()}
        return {"tick": tick, "why": "the start", "dims": [0, 1], "chains": {"ode": chains}}

    states = [state(0, [[0.8, 0.0], [-0.8, 0.0]]), state(7, [[0.3, -0.2]])]
    content = [{"name": HOSTILE, "task": TASK, "algo": "trudi", "steps": 8, "states": states}]
    return {"format": 1, "pictures": content}


def test_the_whole_report_is_written_twice_the_same_with_everything_escaped(tmp_path, pictures, capsys):
    results = made_up(TASKS[:1], ("trudi", "reppo", "reppo, as long as trudi"), 2, failed={(TASK, "trudi", 1)})
    runs = [dataclasses.replace(one, variant=HOSTILE) if one.variant == "reppo" else one for one in results.runs]
    dataclasses.replace(results, runs=tuple(runs)).write(tmp_path / "results.json")
    (tmp_path / "pictures.json").write_text(json.dumps(pictures))
    args = ["report", str(tmp_path / "results.json"), "--denoise-data", str(tmp_path / "pictures.json")]
    for out in ("one", "two"):
        assert trudi([*args, "--out", str(tmp_path / out)]) == 0
    written = sorted(path.relative_to(tmp_path / "one") for path in (tmp_path / "one").rglob("*.*"))
    assert [str(path) for path in written if path.suffix == ".html"] == ["report.html"]
    assert {path.stem for path in written} >= {"curves-steps", "curves-time", "aggregates", "comparisons"}
    assert all((tmp_path / "one" / path).read_bytes() == (tmp_path / "two" / path).read_bytes() for path in written)
    text = (tmp_path / "one" / "report.html").read_text()
    assert text.count("<script>") == 1  # the page's own
    assert "&lt;script&gt;alert(1)" in text
    assert "diverged &amp; stopped: &lt;b&gt;" in text and FAILURE not in text
    assert "Failed runs: 1 of 6" in text and "1 failed, as 0" in text
    for outside in ("http://", "https://", "@import", '<link rel="stylesheet'):
        assert outside not in text.replace("http://www.w3.org/2000/svg", "")
    assert str(tmp_path / "one" / "report.html") in capsys.readouterr().out


def test_the_tables_are_there_as_markdown_too(tmp_path):
    name = "a|b *c* <i>"
    runs = [a_run(name, seed, final=(seed * 10.0,), steps=(100,), returns=(1.0,), seconds=(60.0,)) for seed in (1, 3)]
    runs += [a_run("other", 0, state="failed")]
    Report(gathered(tmp_path, runs, title="Two_words", command="c"), []).write(tmp_path / "out")
    text = (tmp_path / "out" / "tables.md").read_text()
    assert text == Report(gathered(tmp_path, runs, title="Two_words", command="c"), []).tables(), "without a figure drawn"
    lines = text.splitlines()
    assert lines[0] == r"# Two\_words" and "- command: c" in lines and "### Failed runs: 1 of 3" in lines
    begin = lines.index("## Final scores") + 2
    assert lines[begin] == "| task | variant | return | 95 % interval | environment steps | minutes | seeds |"
    assert lines[begin + 1] == "| --- | --- | ---: | ---: | ---: | ---: | ---: |"
    assert lines[begin + 2] == "| t | a\\|b \\*c\\* &lt;i&gt; | 20.0 \u00b1 14.1 | 10.0 to 30.0 | 100 | 1.00 | 2 |"
    assert not any(line.startswith("## All runs") for line in lines)


def test_figures_leave_no_state_behind(tmp_path):
    import matplotlib as mpl

    before, backend = dict(mpl.rcParams), mpl.get_backend()
    was_there = "matplotlib.pyplot" in sys.modules
    made_up(TASKS[:1], ("ppo",), 1).write(tmp_path / "results.json")
    Report(gather([tmp_path / "results.json"]), []).write(tmp_path / "out")
    assert dict(mpl.rcParams) == before and mpl.get_backend() == backend
    assert was_there or "matplotlib.pyplot" not in sys.modules


def test_modes_are_maxima_with_valleys_between_them():
    random = np.random.default_rng(1)
    middles = np.array([[0.7, 0.7], [-0.7, 0.0]])
    which = np.repeat([0, 0, 0, 1], 100)
    found = find_modes(middles[which] + 0.1 * random.standard_normal((400, 2)))
    np.testing.assert_allclose(found.centres, middles, atol=0.12)  # the fullest first
    assert (found.of == which).mean() > 0.99
    assert found.entropy == pytest.approx(-(0.75 * math.log2(0.75) + 0.25 * math.log2(0.25)), abs=0.02)
    wide = find_modes(np.clip(0.5 * random.standard_normal((400, 2)), -1.0, 1.0))
    assert (len(wide.centres), wide.entropy) == (1, 0.0)  # uneven by chance alone
    line = find_modes(np.where(which == 1, 0.5, -0.5)[:, None])
    np.testing.assert_allclose(line.centres, [[-0.5], [0.5]], atol=0.05)
    assert find_modes(np.zeros((10, 1))).centres.tolist() == [[0.0]]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run of one iteration."""
    out = tmp_path_factory.mktemp("runs") / "reach"
    options = ["--num-envs", "8", "--rollout-steps", "8", "--max-iterations", "1", "--update.minibatch-size", "32"]
    assert trudi(["train", "mujoco:ReachAround-v1", "--out", str(out), *options]) == 0
    return out


def test_a_picture_shows_chains_of_the_run(trained, tmp_path):
    picture = take_picture(trained, samples=20, lines=6)
    assert (picture.task, picture.algo, picture.steps) == ("mujoco:ReachAround-v1", "trudi", 8)
    assert 2 <= len(picture.states) <= 3 and picture.states[0].tick == 0
    for state in picture.states:
        assert state.dims == tuple(range(DIMS))
        for chains in state.chains.values():
            latents, actions = np.array(chains.latents), np.array(chains.actions)
            assert (latents.shape, actions.shape) == ((9, 6, 2), (20, 2))
            np.testing.assert_allclose(np.tanh(latents[-1]), actions[:6], atol=1e-4)
    ode, sde = (np.array(picture.states[0].chains[name].latents) for name in ("ode", "sde"))
    np.testing.assert_array_equal(ode[0], sde[0])  # the same starts
    # The policy has barely learnt: its ODE contracts towards 0, step by step, and the SDE does not.
    assert (np.abs(ode[-1]) < np.abs(ode[0])).mean() > 0.9
    assert np.abs(np.diff(sde, axis=0)).mean() > 2.0 * np.abs(np.diff(ode, axis=0)).mean()
    write_pictures([picture], tmp_path / "pictures.json")
    assert read_pictures(tmp_path / "pictures.json") == [picture]
    assert take_picture(trained, samples=20, lines=6) == picture


def test_a_run_folder_is_a_report_of_its_own_and_its_data_say_the_same(trained, tmp_path, capsys):
    data = tmp_path / "pictures.json"
    assert trudi(["report", str(trained), "--denoise-data", str(data), "--out", str(tmp_path)]) == 0
    assert "denoising-reach.png" in capsys.readouterr().out
    assert read_pictures(data) == [take_picture(trained)]
    folder, copy = tmp_path / "folder.json", tmp_path / "copy.json"
    Results(gather([trained]).runs).write(folder)
    Results(gather([folder]).runs).write(copy)
    assert folder.read_text() == copy.read_text()
    (one,) = gather([trained]).runs
    assert (one.state, one.variant, len(one.diagnostics["env_steps"])) == ("done", "trudi", 1)
    kl = one.diagnostics["actor/kl"][0]
    assert kl == float(f"{kl:.6g}")  # as the file keeps it


@pytest.mark.parametrize(
    ("content", "what"),
    [
        ("no", "not JSON"),
        ("[]", "not a file that"),
        ('{"format": 1, "pictures": [{"name": "x"}]}', "0.task: Field required"),
        ("dims", r"x, tick 3: ode: latents \(2, 1, 1\) and actions \(1, 1\) are not of 2 dims"),
    ],
)
def test_bad_pictures_are_named(tmp_path, content, what):
    if content == "dims":
        chains = {"ode": {"latents": [[[0.0]], [[0.0]]], "actions": [[0.0]]}}
        state = {"tick": 3, "why": "", "dims": [0, 1], "chains": chains}
        picture = {"name": "x", "task": "t", "algo": "trudi", "steps": 1, "states": [state]}
        content = json.dumps({"format": 1, "pictures": [picture]})
    path = tmp_path / "pictures.json"
    path.write_text(content)
    with pytest.raises(TrainError, match=what):
        read_pictures(path)


@pytest.mark.parametrize("arguments", [[], ["no-such-folder"], ["{tmp}/results.json", "--denoise", "no-such-run"]])
def test_bad_arguments_are_one_line(tmp_path, arguments, capsys):
    made_up(TASKS[:1], ("ppo",), 1).write(tmp_path / "results.json")
    assert trudi(["report", *(each.format(tmp=tmp_path) for each in arguments)]) == 2
    error = capsys.readouterr().err
    assert error.startswith("trudi report: error: ") and error.count("\n") == 1
    assert not Path("report").exists()


def test_published_figures_stand_beside_the_same_tasks_and_no_others(tmp_path, capsys):
    published = read_published()
    reppo = next(one for one in published if "REPPO" in one.about.source)
    assert reppo.named("envpool:WalkerRun-v1") == reppo.named("playground:WalkerRun") == "WalkerRun"
    assert reppo.named("envpool:BallInCupCatch-v1") == "BallInCup"
    assert reppo.named("mujoco:ReachAround-v1") is None
    assert str(reppo.figures["WalkerRun"]["reppo"]) == "894 \u00b1 17"
    assert trudi(["report", "--published"]) == 0
    assert capsys.readouterr().out.strip() == listing(published)
    made_up(("envpool:WalkerRun-v1",), ("trudi",), 2).write(tmp_path / "results.json")
    Report(gather([tmp_path / "results.json"]), published).write(tmp_path)
    text = (tmp_path / "report.html").read_text()
    assert "894 \u00b1 17" in text and "50.0 \u00d7" in text and "These are other experiments" in text  # 50 M to our 1 M
    assert "933 \u00b1 2" not in text  # CheetahRun's


def test_published_files_are_checked(tmp_path):
    lines = "title: x\nsource: x\nsimulator: x\nbudget: 1\ncolumns: {a: A}\nsame_as: []\ntasks: {T: %s}\n"
    for row, what in (("{b: [1]}", "T has b"), ("{a: [x]}", r"T: a is \['x'\]"), ("{a: 1}", "T: a is 1")):
        (tmp_path / "x.yaml").write_text(lines % row)
        with pytest.raises(TrainError, match=what):
            read_published(tmp_path)


def test_labels_do_not_overlap():
    middles = spread([0.5, 0.5, 0.52, 0.98, 0.99], [0.1] * 5)
    assert all(later - earlier >= 0.1 - 1e-9 for earlier, later in itertools.pairwise(middles))
    assert middles[0] == pytest.approx(0.5) and middles[-1] <= 0.95 + 1e-9

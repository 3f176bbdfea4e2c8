from dataclasses import replace

import pytest
import yaml

from trudi.train.config import TrainCfg, differences, load_config, parse_config, presets, to_plain, write_config
from trudi.train.errors import TrainError


def write(tmp_path, text):
    path = tmp_path / "my.yaml"
    path.write_text(text)
    return path


@pytest.mark.parametrize("name", [name for name, path in presets().items() if path.parent.name == "tasks"])
def test_every_task_preset_loads_and_serves_its_task(name):
    cfg = load_config(name, None)
    assert load_config(None, cfg.task) == cfg


@pytest.mark.parametrize("name", [name for name, path in presets().items() if path.parent.name == "algorithms"])
def test_every_algorithm_preset_loads_for_a_named_task(name):
    assert load_config(name, "envpool:HopperHop-v1").task == "envpool:HopperHop-v1"


def test_a_task_without_a_preset_has_the_defaults():
    assert load_config(None, "envpool:HopperHop-v1") == TrainCfg(task="envpool:HopperHop-v1")


def test_a_configuration_survives_the_file(tmp_path):
    cfg = replace(load_config("cheetah_run", None), seed=7, gamma=0.97)
    write_config(cfg, tmp_path / "config.yaml")
    assert load_config(tmp_path / "config.yaml", None) == cfg


def test_a_named_task_replaces_the_presets():
    assert load_config("cheetah_run", "envpool:WalkerRun-v1").task == "envpool:WalkerRun-v1"


def test_numbers_in_scientific_notation_without_a_dot_are_numbers(tmp_path):
    """YAML reads 1e-3 as a string."""
    cfg = load_config(write(tmp_path, "task: envpool:X\noptim: {learning_rate: 1e-3}\n"), None)
    assert cfg.optim.learning_rate == pytest.approx(0.001)


@pytest.mark.parametrize(
    "text,says",
    [
        ("task: envpool:X\nnum_env: 3\n", r"unknown key 'num_env'; did you mean num_envs"),
        ("task: envpool:X\npolicy: {widht: 3}\n", r"unknown key 'policy.widht'; did you mean width"),
        ("task: envpool:X\npolicy: {width: wide}\n", r"policy.width: .*integer.*got 'wide'"),
        ("task: envpool:X\nnum_envs: 2.5\n", r"num_envs: .*integer"),
        ("task: envpool:X\noptim: {schedule: sometimes}\n", r"optim.schedule: .*'constant'"),
        ("task: envpool:X\npolicy: 3\n", r"policy holds settings of its own, not 3"),
        ("task: envpool:X\ngamma: 1.5\n", r"gamma is 1.5"),
        ("num_envs: 3\n", r"names no task"),
        ("- a\n- b\n", r"must hold `key: value` lines, not a list"),
        ("task: [unclosed\n", r"is not valid YAML"),
    ],
)
def test_mistakes_in_a_file_are_named(tmp_path, text, says):
    with pytest.raises(TrainError, match=says) as caught:
        load_config(write(tmp_path, text), None)
    assert "\n" not in str(caught.value)


def test_an_unknown_preset_says_what_is_near():
    with pytest.raises(TrainError, match="'cheetah_rum'; did you mean cheetah_run"):
        load_config("cheetah_rum", None)


def test_differences_are_dotted_keys():
    old = TrainCfg(task="envpool:X")
    new = replace(old, seed=1, policy=replace(old.policy, width=7))
    assert differences(old, new) == {"seed": (0, 1), "policy.width": (old.policy.width, 7)}


def test_plain_values_go_through_yaml():
    cfg = TrainCfg(task="envpool:X")
    assert parse_config(yaml.safe_load(yaml.safe_dump(to_plain(cfg))), "here") == cfg

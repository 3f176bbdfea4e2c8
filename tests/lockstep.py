"""A flight without threads, sockets and clocks: states, terms, policy, targets, commands, physics, one after the other."""

import numpy as np

from trudi.runtime.controller import Controller, ControllerCfg, Outcome
from trudi.runtime.robots.base import RobotState
from trudi.runtime.site_file import SiteFile
from trudi.runtime.supervisor import Event


class Lockstep:
    """A flight that is ACTIVE from the start: no way to the default pose, no fading in, one command a control step."""

    def __init__(self, simulation, contract, **given):
        """`given` are the policy's commands by name, (elements,), given anew in every control step."""
        self.simulation, self.state = simulation, RobotState.zeros(simulation.describe())
        site = SiteFile(joints={}, stand_s=1e-9, stand_speed=1e9, fade_in_s=0.0)
        period_s = contract.control_period_s
        self.controller = Controller(contract, simulation.describe(), site, ControllerCfg(1.0 / period_s))
        self._period_ns, self._given = round(period_s * 1e9), [given[command.name] for command in contract.commands]
        self.now_ns, self.slot = 10**9, 0
        self._arrive()
        assert self.controller.request(Event.CONFIGURE, self.now_ns) is None
        self.controller.begin(self.now_ns, self.slot, 0)
        for event in (Event.ACTIVATE, Event.STAND, Event.START):
            self.now_ns += 1000
            assert self.controller.request(event, self.now_ns) is None

    def _arrive(self):
        self.simulation.measure(self.state)
        self.state.stamp_ns = self.state.received_ns = self.now_ns
        self.controller.receive(self.state)
        for index, values in enumerate(self._given):
            self.controller.command(index, values, self.now_ns)

    def observe(self):
        """What the policy sees at the beginning of a control step, (observations,)."""
        self.now_ns, self.slot = self.now_ns + self._period_ns, self.slot + 1
        self._arrive()
        assert self.controller.begin(self.now_ns, self.slot, 0), self.controller.supervisor.fault
        return self.controller.observer.observation[0].copy()

    def act(self, action):
        """A control step under the policy's action (actions,) in [-1, 1]; its reward, None where the task has none."""
        output = np.asarray(action, np.float32)[None]
        command = self.controller.finish(self.now_ns, Outcome.TEACHER, output)
        for _ in range(self.simulation.control_substeps):
            self.simulation.step(command)
        return self.simulation.reward()

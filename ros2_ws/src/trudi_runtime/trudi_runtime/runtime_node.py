"""The lifecycle node: a bundle drives a robot behind ROS topics, under the runtime's supervisor and control loop.

| lifecycle    | supervisor                   | motors                                                       |
|--------------|------------------------------|--------------------------------------------------------------|
| unconfigured | UNCONFIGURED                 | nothing is sent                                              |
| inactive     | INACTIVE                     | nothing is sent; states are read and judged                  |
| active       | STANDBY, STAND, ACTIVE, FAULT | damping; ramp to the default pose; the policy; damping      |

Configuring verifies the bundle, proves its engine on the golden cases and starts the control thread. Everything that moves
the robot is a service of its own: `~/stand`, `~/start`, `~/stop`, `~/reset`. Callbacks write to mailboxes; the control
thread alone decides and commands.
"""

from __future__ import annotations

import sys
import time
import traceback
from collections.abc import Callable
from typing import Any

from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from rcl_interfaces.msg import SetParametersResult
from rclpy.clock import Clock
from rclpy.clock_type import ClockType
from rclpy.executors import Executor
from rclpy.lifecycle import LifecycleNode, LifecycleState, TransitionCallbackReturn
from rclpy.parameter import Parameter
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from std_msgs.msg import Bool, Int64MultiArray, String
from std_srvs.srv import Trigger

from trudi.runtime.errors import TrudiRuntimeError
from trudi.runtime.realtime import above_normal
from trudi.runtime.robots.base import SupervisorState as State
from trudi.runtime.supervisor import Event
from trudi.runtime.supervisor import Fault as LatchedFault
from trudi_runtime.parameters import Settings, bundle_root, check, declare
from trudi_runtime.run import MOVING, Run, RunTopics
from trudi_runtime.spinning import Ending, run_node, spin_while
from trudi_runtime.status import bundle_status, inputs_status, shadow_status, supervisor_status, timing_status

WATCH_S = 0.05
DIAGNOSTICS_S = 1.0
FIRST_STATE_S = 5.0
"""How long activation waits for the robot's first state; s."""
LOOP_ENDED = "the control loop has ended; its last error follows, where there was one"
LATCHED = QoSProfile(depth=1, reliability=ReliabilityPolicy.RELIABLE, durability=DurabilityPolicy.TRANSIENT_LOCAL)


class RuntimeNode(LifecycleNode):
    """The operator's side: lifecycle, services, parameters, reports. The robot's topics are `run.Run`'s."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__("trudi_runtime", **kwargs)
        declare(self)
        self._settings = Settings.of(self)
        if complaint := self._settings.complaint():
            raise TrudiRuntimeError(complaint)
        self._root = bundle_root(self._settings)
        self._run: Run | None = None
        self.add_on_set_parameters_callback(self._on_parameters)
        self._is_active = self.create_publisher(Bool, "~/is_active", LATCHED)
        self._state = self.create_publisher(DiagnosticStatus, "~/state", LATCHED)
        self._diagnostics = self.create_publisher(DiagnosticArray, "/diagnostics", 10)
        self._run_topics = RunTopics(None, None)
        if self._settings["publish_ticks"]:
            ticks = self.create_publisher(Int64MultiArray, "~/ticks", 100)
            self._run_topics = RunTopics(ticks, self.create_publisher(String, "~/about", LATCHED))
        self._said: tuple[object, ...] = ()
        self._saved_fault: LatchedFault | None = None
        for word, event in (("stand", Event.STAND), ("start", Event.START), ("stop", Event.STOP), ("reset", Event.RESET)):
            self.create_service(Trigger, f"~/{word}", self._service(event))
        self.create_service(Trigger, "~/save", self._save)
        steady = Clock(clock_type=ClockType.STEADY_TIME)  # a simulation may stand still; the watch may not
        self.create_timer(WATCH_S, self._watch, clock=steady)
        self.create_timer(DIAGNOSTICS_S, self._report, clock=steady)
        self._say_state()
        _guard_transitions(self)

    def _on_parameters(self, given: list[Parameter]) -> SetParametersResult:
        result = check(given, configured=self._run is not None)
        if result.successful and self._run is not None:
            self._run.operator.adjust({parameter.name: parameter.value for parameter in given})
        return result

    # Lifecycle. What a user can cause is refused with a sentence; anything else goes through error processing.

    def on_configure(self, state: LifecycleState) -> TransitionCallbackReturn:
        return self._guarded(self._configure)

    def on_activate(self, state: LifecycleState) -> TransitionCallbackReturn:
        return self._guarded(self._activate)

    def on_deactivate(self, state: LifecycleState) -> TransitionCallbackReturn:
        return self._guarded(self._deactivate)

    def on_cleanup(self, state: LifecycleState) -> TransitionCallbackReturn:
        return self._guarded(self._clean_up)

    def on_shutdown(self, state: LifecycleState) -> TransitionCallbackReturn:
        return self._guarded(self._clean_up)

    def on_error(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Damps, lets go of everything, and leaves a node that can be configured again."""
        self.get_logger().error(f"error in {state.label}: the robot is damped and the runtime is unconfigured")
        return self._guarded(self._clean_up)

    def _guarded(self, work: Callable[[], None]) -> TransitionCallbackReturn:
        try:
            work()
        except TrudiRuntimeError as error:
            self.get_logger().error(str(error))
            return TransitionCallbackReturn.FAILURE
        except Exception:
            self.report_error(traceback.format_exc())
            return TransitionCallbackReturn.ERROR
        finally:
            self._say_state()
        return TransitionCallbackReturn.SUCCESS

    def _configure(self) -> None:
        if self._root is None:
            raise TrudiRuntimeError("no bundle: start with -p bundle:=PATH, or with -p bundle_root:=FOLDER and set bundle")
        self._settings = Settings.of(self)
        run = Run(self, self._settings, self._root, self._run_topics)
        self._run = run
        for line in run.session.log_lines():
            self.get_logger().info(line)
        self.get_logger().info(f"{run.path.name} ({run.digest[:12]}) is configured for {run.robot.describe().name}")

    def _activate(self) -> None:
        run = self._running()
        run.require_alone()
        end = time.monotonic() + FIRST_STATE_S
        while (refusal := run.session.loop.ask(Event.ACTIVATE)) is not None:
            if time.monotonic() > end or run.supervisor.state is State.FAULT:
                raise TrudiRuntimeError(refusal + run.hint())
            time.sleep(WATCH_S)

    def _deactivate(self) -> None:
        run = self._running()
        if not run.session.loop.running:
            raise RuntimeError(LOOP_ENDED)
        if (refusal := run.session.loop.ask(Event.DEACTIVATE)) is not None:
            raise TrudiRuntimeError(refusal)
        if run.supervisor.fault is not None:
            self.get_logger().warning(f"inactive, and {run.supervisor.fault} stays latched until ~/reset")

    def _clean_up(self) -> None:
        self._say_state()  # a fault that nobody has seen yet is told, and saved
        run, self._run = self._run, None
        if run is not None:
            run.close()

    def _running(self) -> Run:
        if self._run is None:
            raise RuntimeError("not configured")
        return self._run

    # Services.

    def _service(self, event: Event) -> Callable[[Trigger.Request, Trigger.Response], Trigger.Response]:
        def answer(_: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
            refusal = self._ask(event)
            response.success, response.message = refusal is None, refusal or self._state_name()
            if refusal is not None:
                self.get_logger().warning(refusal)
            self._say_state()
            return response

        return answer

    def _ask(self, event: Event) -> str | None:
        word, run = event.name.lower(), self._run
        if run is None:
            return f"{word} is refused: the runtime is not configured"
        active = self._state_machine.current_state[1] == "active"
        if not active and event in (Event.STAND, Event.START):
            return f"{word} is refused: the runtime is not activated"
        refusal = run.operator.objection(event) or run.session.loop.ask(event)
        if refusal is None and not active and run.supervisor.state in MOVING:
            return run.session.loop.ask(Event.DEACTIVATE)  # deactivated while the fault was latched: it stays that
        return refusal

    def _save(self, _: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        path = None if self._run is None else self._run.save("request")
        response.success = path is not None
        response.message = f"being written: {path}" if path else "nothing is recorded: set record_dir, and configure"
        return response

    # Reports.

    def _watch(self) -> None:
        """Looks at the supervisor: what changed is said, a fault is saved, a loop that died leads to error processing."""
        self._say_state()
        run = self._run
        if run is not None and not run.session.loop.running:
            self.report_error(LOOP_ENDED)
            active = self._state_machine.current_state[1] == "active"
            self.trigger_deactivate() if active else self.trigger_cleanup()

    def _say_state(self) -> None:
        run = self._run
        state = run.supervisor.state if run is not None else State.UNCONFIGURED
        fault = run.supervisor.fault if run is not None else None
        name = self._state_name()
        now = (name, None if run is None else run.supervisor.motors, None if fault is None else fault.at_ns)
        if now == self._said:
            return
        self._said = now
        self._state.publish(supervisor_status(self.get_name(), None if run is None else run.session))
        self._is_active.publish(Bool(data=state is State.ACTIVE))
        if fault is not None and run is not None:
            if fault is not self._saved_fault:
                self.get_logger().error(f"FAULT in {fault.state.name}, {fault}")
                self._saved_fault = fault
                run.save(str(fault))
        else:
            self.get_logger().info(name)

    def _report(self) -> None:
        run, name = self._run, self.get_name()
        message = DiagnosticArray()
        message.header.stamp = self.get_clock().now().to_msg()
        message.status = [supervisor_status(name, None if run is None else run.session)]
        if run is not None:
            message.status += [
                timing_status(name, run.session),
                inputs_status(name, run.robot, run.links),
                bundle_status(name, run.session, run.digest, str(run.path)),
            ]
            if (shadow := run.session.shadow) is not None:
                message.status.append(shadow_status(name, run.session, shadow))
        self._diagnostics.publish(message)

    def _state_name(self) -> str:
        run = self._run
        if run is None:
            return State.UNCONFIGURED.name
        return f"{run.supervisor.state.name}{', halting' if run.session.controller.halting else ''}"

    def report_error(self, text: str) -> None:
        """An error with its traceback."""
        self.get_logger().error(text.strip())

    @property
    def finalized(self) -> bool:
        """Whether the lifecycle has come to its end."""
        return self._state_machine.current_state[1] == "finalized"

    @property
    def realtime(self) -> bool:
        """Whether real-time priorities are asked for."""
        return self._settings["realtime.priority"] > 0

    def end(self) -> None:
        """Damps, and lets go of the robot."""
        self._clean_up()


def _guard_transitions(node: RuntimeNode) -> None:
    """A transition that the state machine does not allow is answered with a refusal; rclpy raises an error instead."""
    service = node._service_change_state
    change = service.callback

    def answer(request: Any, response: Any) -> Any:
        try:
            return change(request, response)
        except Exception as error:
            node.get_logger().warning(f"transition {request.transition.label or request.transition.id} is refused: {error}")
            response.success = False
            return response

    service.callback = answer


def main(argv: list[str] | None = None) -> int:
    """Runs the node until a signal ends it; 2 where it cannot be started."""
    return run_node(RuntimeNode, _run, argv)


def _run(node: RuntimeNode, executor: Executor, ending: Ending) -> int:
    try:
        with above_normal(node.realtime):
            spin_while(executor, lambda: not (ending.name or node.finalized) and node.context.ok(), node.report_error)
    finally:
        ending.ignore_more()
        node.end()
    return 0


if __name__ == "__main__":
    sys.exit(main())

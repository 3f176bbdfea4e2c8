"""What must agree between the parts of a contract. Each error names both sides."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from trudi.runtime.model import distinct, same_length

if TYPE_CHECKING:
    from trudi.runtime.contract import Contract, Graph, Safety, Sampler
    from trudi.runtime.interface import Action, Command, Robot, Term

JOINT_TERMS = ("joint_position", "joint_velocity", "joint_effort")


class Interface(Protocol):
    """The parts of a contract that do not depend on the network."""

    @property
    def robot(self) -> Robot | None: ...
    @property
    def action(self) -> Action: ...
    @property
    def observation(self) -> tuple[Term, ...]: ...
    @property
    def commands(self) -> tuple[Command, ...]: ...
    @property
    def safety(self) -> Safety: ...
    @property
    def observation_size(self) -> int: ...


def check_contract(contract: Contract) -> None:
    """ValueError where two parts of the contract contradict each other."""
    check_interface(contract)
    _check_network(contract, "graph", contract.graph, contract.sampler)
    if contract.student is not None:
        _check_student(contract)


def check_interface(interface: Interface) -> None:
    """ValueError where robot, action, observation, commands and safety contradict each other."""
    _check_action(interface)
    distinct("observation", tuple(term.name for term in interface.observation))
    distinct("commands", tuple(command.name for command in interface.commands))
    for term in interface.observation:
        _check_term(interface, term)
    _check_safety(interface)


def _check_action(interface: Interface) -> None:
    action, robot = interface.action, interface.robot
    if (robot is None) != (action.kind == "actuator"):
        raise ValueError(
            f"robot is {'null' if robot is None else robot.name} and action.kind is {action.kind}; "
            "a robot's joints are commanded, and actuators only where there is no robot"
        )
    if robot is None:
        return
    same_length("robot.joints (joint_names)", robot.joints, "action.names (action size)", action.names)
    for index, (joint, name) in enumerate(zip(robot.joint_names, action.names, strict=True)):
        if joint != name:
            raise ValueError(
                f"robot.joints[{index}] is {joint}, action.names[{index}] is {name}; the order must be the same"
            )


def _check_term(interface: Interface, term: Term) -> None:
    where = f"observation term {term.name}"
    if term.kind in JOINT_TERMS and interface.robot is not None:
        _check_joints(where, term, interface.robot)
    elif term.joints is not None:
        raise ValueError(f"{where}: joints are for joint terms of a robot; kind is {term.kind}")
    if term.kind == "last_action" and term.size != interface.action.size:
        raise ValueError(f"{where}: size is {term.size}, action.names has {interface.action.size}")
    if term.kind == "command":
        commands = {command.name: len(command.element_names) for command in interface.commands}
        if term.command not in commands:
            raise ValueError(f"{where}: shows the command {term.command}; commands has {', '.join(commands) or 'none'}")
        if term.size != commands[term.command]:
            raise ValueError(f"{where}: size is {term.size}, command {term.command} has {commands[term.command]}")


def _check_joints(where: str, term: Term, robot: Robot) -> None:
    if term.joints is None:
        raise ValueError(f"{where}: kind is {term.kind}, so joints must name the joint of each of its {term.size} elements")
    known = {*robot.joint_names, *robot.passive_joints}
    for joint in term.joints:
        if joint not in known:
            raise ValueError(f"{where}: joints names {joint}, which is neither in robot.joints nor in robot.passive_joints")


def _check_network(contract: Contract, where: str, graph: Graph, sampler: Sampler) -> None:
    expected = {"observation": contract.observation_size}
    if sampler.needs_latent:
        expected["latent"] = contract.action.size
    names = [tensor.name for tensor in graph.inputs]
    if names != list(expected):
        raise ValueError(f"{where}.inputs are {', '.join(names)}; with noise {sampler.noise} they are {', '.join(expected)}")
    if [tensor.name for tensor in graph.outputs] != ["action"]:
        raise ValueError(f"{where}.outputs are {', '.join(t.name for t in graph.outputs)}; the only output is action")
    sides = {"observation": "the observation terms add up to", "latent": "action.names has", "action": "action.names has"}
    for tensor in (*graph.inputs, *graph.outputs):
        size = expected.get(tensor.name, contract.action.size)
        if tensor.shape[1] != size:
            raise ValueError(f"{where}: {sides[tensor.name]} {size}, {tensor.name} has the shape {list(tensor.shape)}")
        if tensor.shape[0] != graph.batch:
            raise ValueError(f"{where}: batch is {graph.batch}, {tensor.name} has the shape {list(tensor.shape)}")


def _check_student(contract: Contract) -> None:
    student = contract.student
    assert student is not None
    if contract.sampler.network != "teacher" or student.sampler.network != "student":
        raise ValueError(
            f"sampler.network is {contract.sampler.network} and student.sampler.network is {student.sampler.network}; "
            "a student stands beside a teacher"
        )
    if student.graph.file == contract.graph.file:
        raise ValueError(f"graph.file and student.graph.file are both {student.graph.file}")
    _check_network(contract, "student.graph", student.graph, student.sampler)


def _check_safety(interface: Interface) -> None:
    safety = interface.safety
    if safety.state_age_warn_s > safety.state_age_lost_s:
        raise ValueError(
            f"safety.state_age_warn_s {safety.state_age_warn_s} is above safety.state_age_lost_s {safety.state_age_lost_s}"
        )
    for command in interface.commands:
        if command.timeout_s > safety.command_lost_s:
            raise ValueError(
                f"command {command.name}: timeout_s {command.timeout_s} is above safety.command_lost_s "
                f"{safety.command_lost_s}"
            )
    bounds = safety.observation_range
    if bounds is None:
        return
    for name, values in (("low", bounds.low), ("high", bounds.high)):
        if len(values) != interface.observation_size:
            raise ValueError(
                f"the observation terms add up to {interface.observation_size}, "
                f"safety.observation_range.{name} has {len(values)}"
            )
    for index, (low, high) in enumerate(zip(bounds.low, bounds.high, strict=True)):
        if low > high:
            raise ValueError(f"safety.observation_range: low[{index}] {low} is above high[{index}] {high}")

"""Starts the runtime of a robot: `ros2 launch trudi_runtime runtime.launch.py bundle:=BUNDLE robot:=unitree_go2`.

Activation ends in STANDBY, where the robot damps. Standing and walking are the operator's to ask for: `~/stand`, `~/start`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ament_index_python.packages import get_package_share_directory
from launch import LaunchContext, LaunchDescription
from launch.action import Action
from launch.actions import DeclareLaunchArgument, EmitEvent, OpaqueFunction, RegisterEventHandler, Shutdown
from launch.events import matches_action
from launch_ros.actions import LifecycleNode, Node
from launch_ros.event_handlers import OnStateTransition
from launch_ros.events.lifecycle import ChangeState
from launch_ros.parameter_descriptions import ParameterValue
from lifecycle_msgs.msg import Transition

from trudi_runtime.arguments import RuntimeArguments

PACKAGE = "trudi_runtime"


def generate_launch_description() -> LaunchDescription:
    """The arguments, which are checked before anything starts."""
    return LaunchDescription(
        [
            DeclareLaunchArgument("bundle", description="Bundle to run: a folder or .zip"),
            DeclareLaunchArgument("robot", description="Robot: a name in config/, or the path of a parameter file"),
            DeclareLaunchArgument("use_sim_time", default_value="false", description="Take the time from /clock"),
            DeclareLaunchArgument("namespace", default_value="", description="Namespace of nodes and topics"),
            DeclareLaunchArgument("autostart", default_value="true", description="Configure and activate: STANDBY, damping"),
            DeclareLaunchArgument("record", default_value="", description="New folder to record a bag into"),
            DeclareLaunchArgument("bundle_root", default_value="", description="Folder of all files (the bundle's)"),
            DeclareLaunchArgument("enclaves", default_value="", description="Prefix of SROS2 enclaves, as in /trudi"),
            OpaqueFunction(function=start),
        ]
    )


def start(context: LaunchContext) -> list[Action]:
    """The runtime, and what brings it to STANDBY."""
    config = Path(get_package_share_directory(PACKAGE)) / "config"
    arguments = RuntimeArguments.read(context.launch_configurations, config)
    runtime = LifecycleNode(
        package=PACKAGE,
        executable="runtime_node",
        name="trudi_runtime",
        namespace=arguments.namespace,
        parameters=[str(arguments.robot), typed(arguments.parameters)],
        ros_arguments=arguments.ros_arguments("runtime_node"),
        output="screen",
        on_exit=[Shutdown(reason="the runtime has ended")],
    )
    activate = RegisterEventHandler(
        OnStateTransition(
            target_lifecycle_node=runtime,
            start_state="configuring",
            goal_state="inactive",
            entities=[change(runtime, Transition.TRANSITION_ACTIVATE)],
        )
    )
    # A change can be asked for once the node's action has been executed; LifecycleNode(autostart=True) fails here and there.
    started = [activate, runtime, change(runtime, Transition.TRANSITION_CONFIGURE)] if arguments.autostart else [runtime]
    if arguments.record is None:
        return started
    recorder = Node(
        package=PACKAGE,
        executable="record_bag",
        name="record_bag",
        namespace=arguments.namespace,
        parameters=[typed(arguments.record_parameters)],
        ros_arguments=arguments.ros_arguments("record_bag"),
        output="screen",
    )
    return [recorder, *started]


def change(node: LifecycleNode, transition: int) -> EmitEvent:
    """Asks `node` for a transition of its lifecycle."""
    return EmitEvent(event=ChangeState(lifecycle_node_matcher=matches_action(node), transition_id=transition))


def typed(parameters: dict[str, Any]) -> dict[str, Any]:
    """Texts stay texts: launch would read `1.0` as a number, and nothing as null."""
    texts = {name: ParameterValue(value, value_type=str) for name, value in parameters.items() if isinstance(value, str)}
    return parameters | texts

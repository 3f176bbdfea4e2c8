"""A simulated robot and its runtime: `ros2 launch trudi_runtime sim.launch.py bundle:=BUNDLE`.

Nobody outside this machine hears them, unless `discovery:=SUBNET`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ament_index_python.packages import get_package_share_directory
from launch import LaunchContext, LaunchDescription
from launch.action import Action
from launch.actions import DeclareLaunchArgument, IncludeLaunchDescription, OpaqueFunction, SetEnvironmentVariable
from launch.launch_description_sources import PythonLaunchDescriptionSource
from launch_ros.actions import Node
from launch_ros.parameter_descriptions import ParameterValue

from trudi_runtime.arguments import SimArguments

PACKAGE = "trudi_runtime"
HANDED_ON = ("bundle", "use_sim_time", "namespace", "autostart", "record", "bundle_root", "enclaves")


def generate_launch_description() -> LaunchDescription:
    """The arguments, which are checked before anything starts."""
    return LaunchDescription(
        [
            DeclareLaunchArgument("bundle", description="Bundle to run: a folder or .zip"),
            DeclareLaunchArgument("task", default_value="", description="Task of the simulated robot (the bundle's)"),
            DeclareLaunchArgument("robot", default_value="", description="Robot: a name in config/, or a path (the task's)"),
            DeclareLaunchArgument("use_sim_time", default_value="false", description="Take the time from /clock"),
            DeclareLaunchArgument("namespace", default_value="", description="Namespace of nodes and topics"),
            DeclareLaunchArgument("autostart", default_value="true", description="Configure and activate: STANDBY, damping"),
            DeclareLaunchArgument("record", default_value="", description="New folder to record a bag into"),
            DeclareLaunchArgument("bundle_root", default_value="", description="Folder of all files (the bundle's)"),
            DeclareLaunchArgument("enclaves", default_value="", description="Prefix of SROS2 enclaves, as in /trudi"),
            DeclareLaunchArgument("faults", default_value="", description="Faults of the robot: a YAML list, or a file"),
            DeclareLaunchArgument("discovery", default_value="LOCALHOST", description="ROS_AUTOMATIC_DISCOVERY_RANGE"),
            OpaqueFunction(function=start),
        ]
    )


def start(context: LaunchContext) -> list[Action]:
    """The robot, and runtime.launch.py."""
    share = Path(get_package_share_directory(PACKAGE))
    arguments = SimArguments.read(context.launch_configurations, share / "config")
    robot = Node(
        package=PACKAGE,
        executable="sim_robot",
        name="sim_robot",
        namespace=arguments.runtime.namespace,
        parameters=[typed(arguments.parameters)],
        ros_arguments=arguments.runtime.ros_arguments("sim_robot"),
        output="screen",
    )
    words = {name: context.launch_configurations[name] for name in HANDED_ON}
    runtime = IncludeLaunchDescription(
        PythonLaunchDescriptionSource(str(share / "launch" / "runtime.launch.py")),
        launch_arguments={**words, "robot": str(arguments.runtime.robot)}.items(),
    )
    return [SetEnvironmentVariable("ROS_AUTOMATIC_DISCOVERY_RANGE", arguments.discovery), robot, runtime]


def typed(parameters: dict[str, Any]) -> dict[str, Any]:
    """Texts stay texts: launch would read `1.0` as a number, and nothing as null."""
    texts = {name: ParameterValue(value, value_type=str) for name, value in parameters.items() if isinstance(value, str)}
    return parameters | texts

"""A robot behind ros2_control, and its runtime.

ros2 launch trudi_runtime bringup.launch.py bundle:=BUNDLE robot:=unitree_go2 description_file:=robot.urdf.xacro

Controllers are started first, and the runtime once all of them are active. Whichever ends takes the other with it: a forward
controller goes on with its last command for ever, so a runtime that is gone must take the hardware's connection along.
"""

from __future__ import annotations

from pathlib import Path

from ament_index_python.packages import get_package_share_directory
from launch import LaunchContext, LaunchDescription
from launch.action import Action
from launch.actions import (
    DeclareLaunchArgument,
    GroupAction,
    IncludeLaunchDescription,
    OpaqueFunction,
    RegisterEventHandler,
    Shutdown,
)
from launch.event_handlers import OnProcessExit
from launch.events.process import ProcessExited
from launch.launch_description_sources import PythonLaunchDescriptionSource
from launch_ros.actions import Node, SetRemap
from launch_ros.parameter_descriptions import ParameterValue

from trudi_runtime.bringup import BringupArguments

PACKAGE = "trudi_runtime"
HANDED_ON = ("bundle", "use_sim_time", "autostart", "record", "bundle_root", "enclaves")
MANAGER_S = "30"
"""How long the controller manager may take to start; s."""


def generate_launch_description() -> LaunchDescription:
    """The arguments, which are checked before anything starts."""
    return LaunchDescription(
        [
            DeclareLaunchArgument("bundle", description="Bundle to run: a folder or .zip"),
            DeclareLaunchArgument("robot", description="Robot: a name in config/, or the path of a parameter file"),
            DeclareLaunchArgument("description_file", description="The robot with its <ros2_control>: .urdf or .xacro"),
            DeclareLaunchArgument("controllers_file", default_value="", description="Controllers (config/controllers/)"),
            DeclareLaunchArgument("use_sim_time", default_value="false", description="Take the time from /clock"),
            DeclareLaunchArgument("autostart", default_value="true", description="Configure and activate: STANDBY, damping"),
            DeclareLaunchArgument("record", default_value="", description="New folder to record a bag into"),
            DeclareLaunchArgument("bundle_root", default_value="", description="Folder of all files (the bundle's)"),
            DeclareLaunchArgument("enclaves", default_value="", description="Prefix of SROS2 enclaves, as in /trudi"),
            OpaqueFunction(function=start),
        ]
    )


def start(context: LaunchContext) -> list[Action]:
    """The controller manager with its controllers; then runtime.launch.py."""
    share = Path(get_package_share_directory(PACKAGE))
    arguments = BringupArguments.read(context.launch_configurations, share / "config")
    sim_time = {"use_sim_time": arguments.runtime.use_sim_time}
    description = Node(
        package="robot_state_publisher",
        executable="robot_state_publisher",
        parameters=[{"robot_description": ParameterValue(arguments.description, value_type=str), **sim_time}],
    )
    manager = Node(
        package="controller_manager",
        executable="ros2_control_node",
        parameters=[str(arguments.controllers_file), sim_time],
        output="screen",
        on_exit=[Shutdown(reason="the controller manager has ended")],
    )
    spawner = Node(
        package="controller_manager",
        executable="spawner",
        arguments=[
            *arguments.spawned,
            "--param-file",
            str(arguments.controllers_file),
            "--controller-manager-timeout",
            MANAGER_S,
        ],
        output="screen",
    )
    words = {name: context.launch_configurations[name] for name in HANDED_ON}
    runtime = IncludeLaunchDescription(
        PythonLaunchDescriptionSource(str(share / "launch" / "runtime.launch.py")),
        launch_arguments={**words, "namespace": "", "robot": str(arguments.runtime.robot)}.items(),
    )
    remaps = [SetRemap(src="imu", dst=arguments.imu_topic)] if arguments.imu_topic else []

    def then(event: ProcessExited, _: LaunchContext) -> list[Action]:
        if event.returncode != 0:
            return [Shutdown(reason="the controllers could not be started")]
        return [GroupAction([*remaps, runtime])]

    return [RegisterEventHandler(OnProcessExit(target_action=spawner, on_exit=then)), description, manager, spawner]

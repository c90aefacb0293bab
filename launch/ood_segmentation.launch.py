"""Starts the node; `ros2 launch ood_segmentation ood_segmentation.launch.py --show-args` lists the arguments."""

from launch import LaunchDescription
from launch.actions import DeclareLaunchArgument, EmitEvent, OpaqueFunction
from launch.conditions import IfCondition
from launch.events.process import ShutdownProcess
from launch.substitutions import LaunchConfiguration, PathJoinSubstitution
from launch_ros.actions import Node
from launch_ros.parameter_descriptions import ParameterValue
from launch_ros.substitutions import FindPackageShare

SHARE = FindPackageShare("ood_segmentation")
ARGUMENTS = {
    "params_file": (
        PathJoinSubstitution([SHARE, "config", "ood_segmentation.param.yaml"]),
        "ROS parameter file; the arguments below that are given win over it",
    ),
    "weights": ("", "path of the .safetensors file, its .yaml beside it"),
    "cameras": ("", "such as [front, rear]; <name>/image_raw is read, <name>/ood/image written"),
    "device": ("", "auto (the first GPU, else the CPU), cpu, cuda or cuda:N"),
    "use_sim_time": ("", "true when /clock drives the stamps"),
    "namespace": ("", "namespace of the node and of every topic"),
    "log_level": ("info", "debug, info, warn or error"),
    "respawn": ("true", "start the node again 1 s after it failed, but not after exit codes 65, 66, 78"),
    "rviz": ("false", "true opens rviz beside it"),
    "rviz_camera": ("camera", "the one of the cameras that rviz shows"),
}
# Launch argument -> parameter and its type; None takes the type that the text has as YAML.
PARAMETERS = {
    "weights": ("model.weights", str),
    "cameras": ("cameras", None),
    "device": ("model.device", str),
    "use_sim_time": ("use_sim_time", bool),
}
# Ended on request; bad weights; no weights; bad arguments: another start would end the same way.
STAYS_DOWN = {0, 65, 66, 78}
# What config/rviz/ood_segmentation.rviz shows, below /camera/.
VIEWED = [
    "image_raw",
    "overlay/image/compressed",
    "ood/image/compressed",
    "ood/probability/compressed",
]


def stay_down(event, _context):
    """Launch starts a process again whatever its exit code was, unless it is told to end it."""
    if event.returncode in STAYS_DOWN:
        process = event.action
        return EmitEvent(event=ShutdownProcess(process_matcher=lambda action: action is process))
    return None


def node(context):
    """The node, with the parameters that were given."""
    given = {
        name: ParameterValue(LaunchConfiguration(argument), value_type=kind)
        for argument, (name, kind) in PARAMETERS.items()
        if LaunchConfiguration(argument).perform(context)
    }
    return [
        Node(
            package="ood_segmentation",
            executable="ood_segmentation_node",
            name="ood_segmentation",
            namespace=LaunchConfiguration("namespace"),
            parameters=[LaunchConfiguration("params_file"), *([given] if given else [])],
            ros_arguments=["--log-level", LaunchConfiguration("log_level")],
            respawn=LaunchConfiguration("respawn"),
            respawn_delay=1.0,
            on_exit=stay_down,
            output="screen",
            emulate_tty=True,
        )
    ]


def generate_launch_description():
    declared = [
        DeclareLaunchArgument(name, default_value=default, description=description)
        for name, (default, description) in ARGUMENTS.items()
    ]
    rviz = Node(
        package="rviz2",
        executable="rviz2",
        namespace=LaunchConfiguration("namespace"),
        arguments=["-d", PathJoinSubstitution([SHARE, "config", "rviz", "ood_segmentation.rviz"])],
        remappings=[
            (f"/camera/{topic}", [LaunchConfiguration("rviz_camera"), f"/{topic}"]) for topic in VIEWED
        ],
        condition=IfCondition(LaunchConfiguration("rviz")),
    )
    return LaunchDescription([*declared, OpaqueFunction(function=node), rviz])

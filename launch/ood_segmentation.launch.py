"""Starts the node; `ros2 launch ood_segmentation ood_segmentation.launch.py --show-args` lists the arguments."""

from launch import LaunchDescription
from launch.actions import DeclareLaunchArgument
from launch.substitutions import LaunchConfiguration, PathJoinSubstitution
from launch_ros.actions import Node
from launch_ros.parameter_descriptions import ParameterValue
from launch_ros.substitutions import FindPackageShare

PARAMETERS = PathJoinSubstitution(
    [FindPackageShare("ood_segmentation"), "config", "ood_segmentation.param.yaml"]
)
ARGUMENTS = {
    "weights": (None, "path of the .safetensors file, its .yaml beside it"),
    "params_file": (PARAMETERS, "ROS parameter file; the arguments here win over it"),
    "namespace": ("", "namespace of the node and of every topic"),
    "cameras": ("[camera]", "names of the cameras; <name>/image_raw is read, <name>/ood/image written"),
    "device": ("auto", "auto (the first GPU, else the CPU), cpu, cuda or cuda:N"),
    "use_sim_time": ("false", "true when /clock drives the stamps: latencies are left out of status"),
    "log_level": ("info", "debug, info, warn or error"),
    "respawn": ("true", "start the node again when it ends with an error, 2 s later"),
}


def text(name):
    """A string parameter, also where the text looks like a number."""
    return ParameterValue(LaunchConfiguration(name), value_type=str)


def generate_launch_description():
    declared = [
        DeclareLaunchArgument(name, default_value=default, description=description)
        for name, (default, description) in ARGUMENTS.items()
    ]
    node = Node(
        package="ood_segmentation",
        executable="ood_segmentation_node",
        name="ood_segmentation",
        namespace=LaunchConfiguration("namespace"),
        parameters=[
            LaunchConfiguration("params_file"),
            {
                "model.weights": text("weights"),
                "model.device": text("device"),
                "cameras": LaunchConfiguration("cameras"),
                "use_sim_time": LaunchConfiguration("use_sim_time"),
            },
        ],
        ros_arguments=["--log-level", LaunchConfiguration("log_level")],
        respawn=LaunchConfiguration("respawn"),
        respawn_delay=2.0,
        output="screen",
        emulate_tty=True,
    )
    return LaunchDescription([*declared, node])

"""Plays a bag to the node and shows in rviz what it sees; `--show-args` lists the arguments.

A bag with /camera/image_raw or /camera/image_raw/compressed needs nothing else. For other names say how
the node shall read them, such as `namespace:=/sensors cameras:=[front] rviz_camera:=front` for
/sensors/front/image_raw, or `image_topic:=/zed/left/image_rect` for one topic of any name.
"""

from launch import LaunchDescription
from launch.actions import (
    DeclareLaunchArgument,
    ExecuteProcess,
    IncludeLaunchDescription,
    OpaqueFunction,
)
from launch.launch_description_sources import PythonLaunchDescriptionSource
from launch.substitutions import LaunchConfiguration, PathJoinSubstitution
from launch_ros.substitutions import FindPackageShare

SHARE = FindPackageShare("ood_segmentation")
ARGUMENTS = {
    "bag": (None, "the rosbag2 bag: a folder or one .mcap file"),
    "image_topic": ("", "a topic of the bag that shall be /camera/image_raw (or its /compressed)"),
    "rate": ("1.0", "speed; 0.5 plays half as fast"),
    "loop": ("false", "true begins again at the end"),
    "params_file": (
        PathJoinSubstitution([SHARE, "config", "ood_segmentation.param.yaml"]),
        "ROS parameter file of the node",
    ),
    "weights": ("", "path of the .safetensors file, its .yaml beside it"),
    "cameras": ("", "names of the cameras, such as [front, rear]"),
    "device": ("", "auto (the first GPU, else the CPU), cpu, cuda or cuda:N"),
    "namespace": ("", "namespace of the node and of its topics"),
    "log_level": ("info", "debug, info, warn or error"),
    "rviz": ("true", "false leaves rviz out"),
    "rviz_camera": ("camera", "the one of the cameras that rviz shows"),
}
# Arguments of the node's own launch file.
PASSED_ON = [name for name in ARGUMENTS if name not in ("bag", "image_topic", "rate", "loop")]


def play(context):
    """`ros2 bag play`, which drives /clock."""
    said = {name: LaunchConfiguration(name).perform(context) for name in ARGUMENTS}
    command = ["ros2", "bag", "play", said["bag"], "--clock", "--rate", said["rate"]]
    if said["loop"].lower() in ("true", "1"):
        command.append("--loop")
    if said["image_topic"]:
        twin = "/compressed" if said["image_topic"].endswith("/compressed") else ""
        command += ["--remap", f"{said['image_topic']}:=/camera/image_raw{twin}"]
    return [ExecuteProcess(cmd=command, output="screen")]


def generate_launch_description():
    declared = [
        DeclareLaunchArgument(name, default_value=default, description=description)
        for name, (default, description) in ARGUMENTS.items()
    ]
    node = IncludeLaunchDescription(
        PythonLaunchDescriptionSource(
            PathJoinSubstitution([SHARE, "launch", "ood_segmentation.launch.py"])
        ),
        launch_arguments=[
            *((name, LaunchConfiguration(name)) for name in PASSED_ON),
            ("use_sim_time", "true"),
        ],
    )
    return LaunchDescription([*declared, node, OpaqueFunction(function=play)])

"""Loads the launch files and prints arguments and actions, one JSON document.

`launch` and `launch_ros` come with a ROS installation only: stand-ins for them keep what they are given.

Usage: launch_files.py FOLDER [NAME:=VALUE...]
"""

import importlib.machinery
import importlib.util
import json
import sys
import types
from pathlib import Path


class Kept:
    """An action, event or substitution: its name and what it was made of."""

    def __init__(self, *args, **kwargs):
        self.args, self.kwargs = args, kwargs

    def perform(self, context):
        return context[self.args[0]]

    def json(self):
        return {"is": type(self).__name__, "args": plain(self.args)} | plain(self.kwargs)


def plain(value):
    if isinstance(value, Kept):
        return value.json()
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    return value if isinstance(value, (str, int, float, bool, type(None))) else getattr(value, "__name__", "?")


class StandIns:
    """Every module below `launch` and `launch_ros`; every name in them is a class of its own."""

    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] not in ("launch", "launch_ros"):
            return None
        return importlib.machinery.ModuleSpec(name, self, is_package=True)

    def create_module(self, spec):
        module = types.ModuleType(spec.name)
        module.__getattr__ = lambda name: type(name, (Kept,), {})
        return module

    def exec_module(self, module):
        pass


def load(path):
    spec = importlib.util.spec_from_file_location(path.name.split(".")[0], path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def described(path, given):
    """What a launch file declares and, with these arguments, would start."""
    module = load(path)
    actions, arguments = [], {}
    for action in module.generate_launch_description().args[0]:
        if type(action).__name__ == "DeclareLaunchArgument":
            said = action.kwargs
            arguments[action.args[0]] = [plain(said["default_value"]), said["description"]]
        elif type(action).__name__ == "OpaqueFunction":
            context = {name: str(default or "") for name, (default, _) in arguments.items()} | given
            actions += action.kwargs["function"](context)
        else:
            actions.append(action)
    found = {"arguments": arguments, "actions": [plain(action) for action in actions]}
    if hasattr(module, "stay_down"):
        exit_of = lambda code: types.SimpleNamespace(returncode=code, action="node")
        codes = [code for code in range(128) if module.stay_down(exit_of(code), None) is not None]
        stopped = module.stay_down(exit_of(78), None).kwargs["event"]
        matches = stopped.kwargs["process_matcher"]
        found |= {"stays_down": codes, "stops": [matches("node"), matches("rviz")]}
    return found


if __name__ == "__main__":
    folder, given = Path(sys.argv[1]), dict(text.split(":=", 1) for text in sys.argv[2:])
    sys.meta_path.insert(0, StandIns())
    print(json.dumps({path.name: described(path, given) for path in sorted(folder.glob("*.launch.py"))}))

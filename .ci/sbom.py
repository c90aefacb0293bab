"""Software bill of materials: every dependency with version, licence and checksum, CycloneDX 1.5 JSON.

Usage: sbom.py FILE (in the repository; needs cargo and a fetched Cargo.lock)
"""

import json
import subprocess
import sys
import tomllib
from pathlib import Path

# What is linked or loaded and comes from elsewhere than the crates' registry.
LIBTORCH = {
    "type": "library",
    "bom-ref": "pkg:pypi/torch@2.11.0",
    "name": "torch",
    "version": "2.11.0",
    "purl": "pkg:pypi/torch@2.11.0",
    "licenses": [{"license": {"id": "BSD-3-Clause"}}],
    "description": "libtorch: the shared libraries of the wheel",
}


def component(package, checksums):
    reference = f"pkg:cargo/{package['name']}@{package['version']}"
    entry = {
        "type": "library",
        "bom-ref": reference,
        "name": package["name"],
        "version": package["version"],
        "purl": reference,
    }
    if package["license"]:
        # "MIT/Apache-2.0" is the old way to write OR.
        entry["licenses"] = [{"expression": package["license"].replace("/", " OR ")}]
    checksum = checksums.get((package["name"], package["version"]))
    if checksum:
        entry["hashes"] = [{"alg": "SHA-256", "content": checksum}]
    return entry


def main(out):
    command = ["cargo", "metadata", "--locked", "--format-version", "1"]
    command += ["--filter-platform", "x86_64-unknown-linux-gnu"]
    metadata = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)
    lock = tomllib.loads(Path("Cargo.lock").read_text())
    checksums = {(p["name"], p["version"]): p.get("checksum") for p in lock["package"]}
    packages = {package["id"]: package for package in metadata["packages"]}
    nodes = {node["id"]: node for node in metadata["resolve"]["nodes"]}
    root = metadata["workspace_default_members"][0]
    reached, waiting = {root}, [root]
    while waiting:
        new = set(nodes[waiting.pop()]["dependencies"]) - reached
        reached |= new
        waiting += new
    made = {key: component(packages[key], checksums) for key in reached}
    references = {key: entry["bom-ref"] for key, entry in made.items()}
    depends = [
        {
            "ref": references[key],
            "dependsOn": sorted(references[other] for other in nodes[key]["dependencies"])
            + ([LIBTORCH["bom-ref"]] if packages[key]["name"] == "torch-sys" else []),
        }
        for key in reached
    ]
    application = made.pop(root) | {"type": "application"}
    bom = {
        "bomFormat": "CycloneDX",
        "specVersion": "1.5",
        "version": 1,
        "metadata": {"component": application},
        "components": sorted([*made.values(), LIBTORCH], key=lambda entry: entry["bom-ref"]),
        "dependencies": sorted(depends, key=lambda entry: entry["ref"]),
    }
    Path(out).parent.mkdir(parents=True, exist_ok=True)
    Path(out).write_text(json.dumps(bom, indent=1) + "\n")
    bare = [entry["name"] for entry in bom["components"] if "licenses" not in entry]
    print(f"{out}: {len(bom['components'])} components; without a licence: {', '.join(bare) or 'none'}")


if __name__ == "__main__":
    main(sys.argv[1])

"""Builds the ament_python package. colcon runs it, with setuptools below 80."""

from __future__ import annotations

from pathlib import Path

from setuptools import find_packages, setup

PACKAGE = "trudi_runtime"
HERE = Path(__file__).parent


def shared(folder: str) -> list[tuple[str, list[str]]]:
    """The files of `folder` and below, each to the same place under share/trudi_runtime."""
    files = sorted(path.relative_to(HERE) for path in (HERE / folder).rglob("*") if path.is_file())
    files = [path for path in files if "__pycache__" not in path.parts]
    return [(f"share/{PACKAGE}/{path.parent}", [str(path)]) for path in files]


setup(
    name=PACKAGE,
    version="0.1.0",
    description="Runs a TruDi bundle on a robot: a lifecycle node under a safety supervisor, a simulated robot, bags.",
    maintainer="TruDi maintainers",
    maintainer_email="maintainers@trudi.example",
    license="Apache-2.0",
    packages=find_packages(exclude=["test"]),
    package_data={PACKAGE: ["py.typed"]},
    data_files=[
        ("share/ament_index/resource_index/packages", [f"resource/{PACKAGE}"]),
        (f"share/{PACKAGE}", ["package.xml"]),
        *shared("launch"),
        *shared("config"),
    ],
    python_requires=">=3.10",
    install_requires=["setuptools"],
    extras_require={"test": ["pytest"]},
    zip_safe=True,
    entry_points={
        "console_scripts": [
            "record_bag = trudi_runtime.record_bag:main",
            "replay_bag = trudi_runtime.replay_bag:main",
            "runtime_node = trudi_runtime.runtime_node:main",
            "sim_robot = trudi_runtime.sim_robot:main",
        ]
    },
)

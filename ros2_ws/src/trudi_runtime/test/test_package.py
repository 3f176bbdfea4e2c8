"""package.xml, setup.py and setup.cfg say the same, and what colcon needs to see an ament_python package."""

import ast
import configparser
import re
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[1]
# catkin_pkg's own: an address that it does not take makes colcon read the folder as plain Python, in silence.
EMAIL = re.compile(r"[-a-zA-Z0-9_%+]+(\.[-a-zA-Z0-9_%+]+)*@[-a-zA-Z0-9%]+(\.[-a-zA-Z0-9%]+)*\.[a-zA-Z]{2,}")
IMPORTED = {"ament_index_python": "ament_index_python", "yaml": "python3-yaml", "numpy": "python3-numpy"}
NOT_IN_ROSDEP = {"trudi", "mcap", "rosbags"}


@pytest.fixture(scope="module")
def manifest() -> ET.Element:
    return ET.parse(PACKAGE / "package.xml").getroot()


@pytest.fixture(scope="module")
def setup() -> dict:
    tree = ast.parse((PACKAGE / "setup.py").read_text())
    call = next(node for node in ast.walk(tree) if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "setup")
    found = {}
    for keyword in call.keywords:
        try:
            found[keyword.arg] = ast.literal_eval(keyword.value)
        except ValueError:  # an expression
            found[keyword.arg] = ast.unparse(keyword.value)
    return found


def test_is_ament_python(manifest):
    assert manifest.get("format") == "3"
    assert manifest.findtext("name") == "trudi_runtime"
    assert manifest.findtext("export/build_type") == "ament_python"
    assert (PACKAGE / "resource" / "trudi_runtime").is_file()


def test_maintainer_and_licence(manifest, setup):
    maintainers = manifest.findall("maintainer")
    assert maintainers
    for maintainer in maintainers:
        assert EMAIL.fullmatch(maintainer.get("email", ""))
    assert manifest.findtext("license") == setup["license"] == "Apache-2.0"
    assert maintainers[0].get("email") == setup["maintainer_email"]


def test_same_version_and_description(manifest, setup):
    assert manifest.findtext("version") == setup["version"]
    assert manifest.findtext("description") == setup["description"]


def test_same_version_as_trudi(manifest):
    project = PACKAGE.parents[2] / "pyproject.toml"
    if not (PACKAGE.parents[2] / "runtime").is_dir():
        pytest.skip("the package stands alone")
    assert f'\nversion = "{manifest.findtext("version")}"\n' in project.read_text()


def test_every_import_is_declared(manifest):
    declared = {element.text for element in manifest if element.tag in ("depend", "exec_depend")}
    for path in [*(PACKAGE / "trudi_runtime").glob("*.py"), *(PACKAGE / "launch").glob("*.py")]:
        for node in ast.walk(ast.parse(path.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) and not node.level else []
            for name in {name.split(".")[0] for name in names}:
                if name in NOT_IN_ROSDEP or name == "trudi_runtime" or name in __import__("sys").stdlib_module_names:
                    continue
                assert IMPORTED.get(name, name) in declared, f"{path.name} imports {name}, which package.xml does not have"


def test_no_dependency_twice(manifest):
    names = [element.text for element in manifest if element.tag.endswith("depend")]
    assert len(names) == len(set(names))


def test_executables(setup):
    scripts = setup["entry_points"]["console_scripts"]
    names = [script.split(" = ")[0] for script in scripts]
    assert names == ["record_bag", "replay_bag", "runtime_node", "sim_robot"]
    for script, name in zip(scripts, names, strict=True):
        assert script == f"{name} = trudi_runtime.{name}:main"


@pytest.mark.parametrize("name", ["record_bag", "replay_bag", "runtime_node", "sim_robot"])
def test_executable_has_a_main(name):
    tree = ast.parse((PACKAGE / "trudi_runtime" / f"{name}.py").read_text())
    assert any(isinstance(node, ast.FunctionDef) and node.name == "main" for node in tree.body)


def test_scripts_go_where_ros_looks_for_them():
    config = configparser.ConfigParser()
    config.read(PACKAGE / "setup.cfg")
    assert config["install"]["install_scripts"] == config["develop"]["script_dir"] == "$base/lib/trudi_runtime"


def test_everything_is_installed(setup):
    assert "shared('launch')" in setup["data_files"]
    assert "shared('config')" in setup["data_files"]
    assert "share/ament_index/resource_index/packages" in setup["data_files"]
    assert "package.xml" in setup["data_files"]

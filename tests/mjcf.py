"""Reads from a MuJoCo scene what robot files repeat: actuators, the joints they drive, and keyframes."""

from dataclasses import dataclass

from trudi.train.envs.assets import _expanded

ACTUATORS = ("position", "general", "motor")


@dataclass(frozen=True)
class Drive:
    """An actuator and its joint; attributes with all defaults applied, as text."""

    joint: str
    joint_attributes: dict
    actuator: dict

    @property
    def position_limit(self):
        return numbers(self.joint_attributes["range"])

    @property
    def target_limit(self):
        inherits = float(self.actuator.get("inheritrange", "0")) == 1
        return self.position_limit if inherits else numbers(self.actuator["ctrlrange"])

    @property
    def stiffness(self):
        gain = self.actuator.get("gainprm") or self.actuator["kp"]
        return numbers(gain)[0]

    @property
    def derivative_gain(self):
        """Of the actuator; None where MuJoCo computes it from a damping ratio."""
        if "dampratio" in self.actuator:
            return None
        return -numbers(self.actuator["biasprm"])[2] if "biasprm" in self.actuator else float(self.actuator.get("kv", "0"))

    @property
    def viscous_damping(self):
        return float(self.joint_attributes.get("damping", "0"))

    @property
    def effort_limit(self):
        return numbers(self.actuator.get("forcerange") or self.joint_attributes["actuatorfrcrange"])[1]


def numbers(text):
    return tuple(float(word) for word in text.split())


def read_drives(scene):
    """The scene's drives in actuator order."""
    root = _expanded(scene)
    defaults = {"main": {}}
    for element in root.findall("default"):
        collect_defaults(element, {}, defaults)
    joints = {}
    for body in root.findall("worldbody"):
        collect_joints(body, "main", defaults, joints)
    drives = []
    for section in root.findall("actuator"):
        for element in section:
            actuator = defaults[element.get("class", "main")].get("actuator", {}) | element.attrib
            drives.append(Drive(actuator["joint"], joints[actuator["joint"]], actuator))
    return drives


def read_key(scene, name):
    """The actuators' targets in a keyframe."""
    key = next(key for key in _expanded(scene).iter("key") if key.get("name") == name)
    return numbers(key.attrib["ctrl"])


def collect_defaults(element, inherited, defaults):
    """Every class's attributes of joints and of actuators, which share one set whatever their tag."""
    own = {kind: dict(attributes) for kind, attributes in inherited.items()}
    for child in element:
        kind = "actuator" if child.tag in ACTUATORS else child.tag
        if kind in ("actuator", "joint"):
            own[kind] = own.get(kind, {}) | child.attrib
    defaults[element.get("class", "main")] = own
    for child in element.findall("default"):
        collect_defaults(child, own, defaults)


def collect_joints(body, inherited, defaults, joints):
    childclass = body.get("childclass", inherited)
    for element in body.findall("joint"):
        attributes = defaults[element.get("class", childclass)].get("joint", {}) | element.attrib
        joints[attributes["name"]] = attributes
    for child in body.findall("body"):
        collect_joints(child, childclass, defaults, joints)

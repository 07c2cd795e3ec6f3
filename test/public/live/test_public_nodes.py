"""Parameters, topics and services of the nodes are as they were recorded in data/public/nodes.yaml."""

import os

import pytest
import yaml
from conftest import answer_of, wait_for
from places import ROOT
from rcl_interfaces.srv import GetParameters, ListParameters
from rclpy.parameter import parameter_value_to_python

KINDS = ("publishers", "subscriptions", "services")
NODES = yaml.safe_load((ROOT / "test/data/public/nodes.yaml").read_text())
POLICY = '''
"""A policy of a user's own: what policy:=module:function must return, and nothing more."""

import numpy as np

from pi05_progress.observation import PolicyOutput


class Policy:
    model_id, horizon, action_dt_s = "mine", 30, 1 / 30

    def infer(self, frame, prompt):
        return PolicyOutput(actions=np.zeros((30, 16), np.float32), progress=0.5)

    def warm_up(self):
        pass


def make(profile):
    return Policy()
'''


def call(ros, node, kind, service, **request):
    """Ask a service and wait for its answer."""
    client = node.create_client(kind, service)
    return answer_of(client, kind.Request(**request), lambda: ros.spin_once(node, timeout_sec=0.05))


def parameters(ros, node, name):
    """A node's parameters and their values."""
    names = call(ros, node, ListParameters, f"{name}/list_parameters").result.names
    values = call(ros, node, GetParameters, f"{name}/get_parameters", names=names).values
    pairs = zip(names, map(parameter_value_to_python, values), strict=True)
    return {key: list(value) if isinstance(value, list) else value for key, value in pairs}


def interfaces(node, name):
    """What a node publishes, subscribes to and serves: names with types."""
    *namespace, own = name.split("/")
    asked = own, "/".join(namespace) or "/"
    kinds = {
        "publishers": node.get_publisher_names_and_types_by_node,
        "subscriptions": node.get_subscriber_names_and_types_by_node,
        "services": node.get_service_names_and_types_by_node,
    }
    return {kind: {topic: types[0] for topic, types in ask(*asked)} for kind, ask in kinds.items()}


@pytest.mark.parametrize("name", NODES)
def test_a_node_has_every_parameter_topic_and_service_that_it_had(start, ros, tmp_path, name):
    listed = NODES[name]
    (tmp_path / "users_policy.py").write_text(POLICY)
    path = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])
    words = [word for key, value in listed["given"].items() for word in ("-p", f"{key}:={value}")]
    process = start(listed["program"], "--ros-args", *words, PYTHONPATH=path)
    node = ros.create_node("looks_on")
    nodes = {name: listed, **listed.get("apart", {})}
    expected = {n: {kind: listed[kind] for kind in KINDS if kind in listed} for n, listed in nodes.items()}
    missing = {}

    def complete():
        assert process.poll() is None, process.log()
        if not {n.rsplit("/", 1)[1] for n in nodes} <= set(node.get_node_names()):
            return False
        missing.clear()
        for own, kinds in expected.items():
            found = interfaces(node, own)
            lacks = {k: {n: t for n, t in kinds[k].items() if found[k].get(n) != t} for k in kinds}
            missing.update({f"{own} {kind}": topics for kind, topics in lacks.items() if topics})
        return not missing

    try:
        wait_for(complete, lambda: ros.spin_once(node, timeout_sec=0.1), "every topic and service")
    except AssertionError as error:
        raise AssertionError(f"{error}; missing, or of another type: {missing}\n{process.log()}") from None
    found = parameters(ros, node, name)
    given = {key: value for key, value in found.items() if key not in listed["given"]}
    assert {key: given.get(key) for key in listed["parameters"]} == listed["parameters"]
    assert set(listed["given"]) <= set(found)

"""The policy: Pi0.5 with a progress head. Imports neither ROS nor LeRobot; this file alone loads no JAX, either."""

from .observation import PolicyOutput, RobotFrame
from .policy import OwnPolicy, Policy, PolicyOptions

__all__ = ["OwnPolicy", "Policy", "PolicyOptions", "PolicyOutput", "RobotFrame"]

"""A simulated Teleavatar: physics, tasks, scripted expert and the robot's ROS API."""

from .physics.gl import choose_backend

choose_backend()  # MuJoCo decides when it is imported, whichever part of the simulation comes first

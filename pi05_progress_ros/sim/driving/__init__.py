"""A policy that drives the simulated robot, without ROS and in simulated time."""

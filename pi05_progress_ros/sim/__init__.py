"""A simulated Teleavatar: physics, tasks, scripted expert and the robot's ROS API."""

"""ROS 2 bags: reading them, finding episodes, bringing everything onto one grid of times. No ROS is needed."""

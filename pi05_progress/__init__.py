"""The policy: Pi0.5 with a progress head. Imports neither ROS nor LeRobot."""

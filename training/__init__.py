"""Offline tools, run from the checkout as ``python -m training.<tool>``. No ROS, no torch, no LeRobot in here."""

"""Recording episodes into rosbag2 bags."""

"""What the transmitter and the receiver share on the ROS side; imports rclpy, never a node."""

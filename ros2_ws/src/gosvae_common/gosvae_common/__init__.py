"""What the nodes and tools share on the ROS side; imports no node."""

"""The ROS 2 side of TruDi: nodes around `trudi.runtime`, and what their launch files check."""

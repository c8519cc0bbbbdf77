"""A detector at work on a live stream: sources of frames, clocks, tracking, odometry, and what is published."""

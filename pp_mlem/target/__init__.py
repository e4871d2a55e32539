"""What is maximised or sampled: a problem, its data and what is held fixed."""

"""What can be said of a solution: labels, spurious and boundary ends, optima, uncertainty."""

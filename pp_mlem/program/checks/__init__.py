"""What data may not do to a program, checked before anything is compiled."""

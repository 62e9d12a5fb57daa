"""What an experiment's blocks say."""

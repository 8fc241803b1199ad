"""Numbers between stages and accuracy on the user's own data, for every backend."""

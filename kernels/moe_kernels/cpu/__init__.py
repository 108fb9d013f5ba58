"""What torch multiplies fast on a CPU, and weights packed for that."""

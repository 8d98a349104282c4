"""What the operators share: backend choice, checks, random numbers and device code."""

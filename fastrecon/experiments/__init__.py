"""Claims tested by arms x seeds: normal training runs, paired object by object."""

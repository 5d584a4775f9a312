"""Training of the second half of the network by what other views repeat. Needs the extra `train`."""
